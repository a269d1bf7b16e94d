"""Compiled grammars in the executor: fetched once by key from the grammar service, followed by a matcher a sequence."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import xgrammar
from torch import Tensor

from bough.common.errors import InvalidRequestError
from bough.common.sampling import Grammar
from bough.common.vocab import Vocabulary, xgrammar_format, xgrammar_tokenizer_info

Fetch = Callable[[Grammar], Awaitable[tuple[str, bytes]]]
"""Gives the format and the serialized form of a grammar; BoughError when it cannot be had."""


class GrammarMatcher:
    """Follows one sequence through its grammar."""

    def __init__(self, compiled: xgrammar.CompiledGrammar) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)

    def fill(self, bitmask: Tensor, line: int) -> None:
        """Write what is allowed next into `bitmask[line]`, int32 words."""
        self._matcher.fill_next_token_bitmask(bitmask, line)

    def accept(self, token: int) -> bool:
        """Advance; False when the grammar does not allow the token."""
        return bool(self._matcher.accept_token(token))

    @property
    def is_done(self) -> bool:
        """A stop token ended the output: nothing more is allowed."""
        return bool(self._matcher.is_terminated())


class GrammarStore:
    """The compiled grammars of an executor, least recently used ones dropped first.

    Args:
        vocabulary: The model's tokens.
        vocab_size: Columns of the logits.
        stop_token_ids: The model's end-of-sequence ids.
        fetch: Asks the grammar service.
        max_bytes: Bound of the serialized forms together.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        vocab_size: int,
        stop_token_ids: Sequence[int],
        fetch: Fetch,
        max_bytes: int,
    ) -> None:
        self._info = xgrammar_tokenizer_info(vocabulary, vocab_size=vocab_size, stop_token_ids=list(stop_token_ids))
        self._fetch = fetch
        self._max_bytes = max_bytes
        self._compiled: OrderedDict[bytes, tuple[int, xgrammar.CompiledGrammar]] = OrderedDict()
        self._fetching: dict[bytes, asyncio.Task[xgrammar.CompiledGrammar]] = {}
        self._size_bytes = 0

    async def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at the beginning of a grammar; fetches the compiled form unless it is here.

        Raises:
            BoughError: The grammar service cannot be reached or refuses, or its format is another one.
        """
        entry = self._compiled.get(grammar.key)
        if entry is not None:
            self._compiled.move_to_end(grammar.key)
            return GrammarMatcher(entry[1])
        task = self._fetching.get(grammar.key)
        if task is None:
            task = self._fetching[grammar.key] = asyncio.create_task(self._get(grammar))
        return GrammarMatcher(await asyncio.shield(task))

    async def _get(self, grammar: Grammar) -> xgrammar.CompiledGrammar:
        try:
            written_by, serialized = await self._fetch(grammar)
            if written_by != xgrammar_format():
                raise InvalidRequestError(
                    f"grammar: compiled by {written_by}, this executor reads {xgrammar_format()}", field="grammar"
                )
            compiled = await asyncio.to_thread(
                xgrammar.CompiledGrammar.deserialize_json, serialized.decode(), self._info
            )
        finally:
            del self._fetching[grammar.key]
        self._keep(grammar.key, len(serialized), compiled)
        return compiled

    def _keep(self, key: bytes, size_bytes: int, compiled: xgrammar.CompiledGrammar) -> None:
        if size_bytes > self._max_bytes:
            return
        self._compiled[key] = (size_bytes, compiled)
        self._size_bytes += size_bytes
        while self._size_bytes > self._max_bytes:
            _, (dropped, _) = self._compiled.popitem(last=False)
            self._size_bytes -= dropped
