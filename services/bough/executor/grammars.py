"""Compiled grammars in the executor: fetched once by key from the grammar service, followed by a matcher a sequence.

xgrammar is imported with the first grammar, which is that of the warm-up: it costs most of a second, and so does the
vocabulary of a large model. Neither keeps a start waiting.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bough.common import grammar_warmup
from bough.common.errors import InvalidRequestError
from bough.common.grammar_form import grammar_format, mask_compiler, read_grammar
from bough.common.sampling import Grammar, SamplingParams
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.forced_text import ForcedText
from bough.executor.reasoning import ReasoningMatcher
from bough.executor.running import Matcher

if TYPE_CHECKING:
    import xgrammar
    from torch import Tensor

Fetch = Callable[[Grammar], Awaitable[tuple[str, bytes]]]
"""Gives the format and the serialized form of a grammar; BoughError when it cannot be had."""


FREE_TOKEN_S = 0.001
"""Processor time that following a token may take; ordinary grammars take a hundredth of it."""
FREE_MASK_S = 0.02
"""Time that a mask may take before it is asked for again, which tells whether the next ones will take as long."""
MOST_EXCESS_S = 0.25
"""Time beyond that, over all tokens of a sequence, or time of one mask, after which it ends: all others wait for it."""
_TOO_AMBIGUOUS = "the grammar is too ambiguous: the text so far can be derived from it in too many ways"
_MEASURED_AGAIN = 16
_TIMED_MASKS = 16
"""Of a suspect, before it is trusted again."""
MOST_SKIPPED = 3
"""Tokens after which it is asked again whether text must follow, where it did not the last times."""


class GrammarMatcher:
    """Follows one sequence through its grammar.

    Args:
        compiled: The grammar.
        guesses: Guesses tokens where text must follow; None: none are guessed.
    """

    def __init__(self, compiled: xgrammar.CompiledGrammar, guesses: ForcedText | None = None) -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._guesses = guesses
        self._forced = b""
        self._since: list[int] = []
        self._num_misses = self._num_skipped = 0
        self._excess_s = 0.0
        self._num_timed = 0

    def fill(self, bitmask: Tensor, line: int) -> None:
        """Write what is allowed next into `bitmask[line]`, int32 words. ValueError where that has become too slow."""
        if self._is_slow:
            raise ValueError(_TOO_AMBIGUOUS)
        took_s = self._fill(bitmask, line)
        self._num_timed = max(0, self._num_timed - 1)
        if took_s > FREE_MASK_S:
            # Masks of rules that are new here are made once; what many ways take, they take again.
            self._charge(self._fill(bitmask, line))
        if took_s > MOST_EXCESS_S:
            raise ValueError(
                f"the grammar is too slow: finding what may follow the text so far takes {took_s:.2f} s; at most "
                f"{MOST_EXCESS_S:g} s are accepted"
            )
        if self._is_slow:
            raise ValueError(_TOO_AMBIGUOUS)

    def _fill(self, bitmask: Tensor, line: int) -> float:
        start_s = time.thread_time()
        self._matcher.fill_next_token_bitmask(bitmask, line)
        return time.thread_time() - start_s

    def _charge(self, took_s: float) -> None:
        self._excess_s = max(0.0, self._excess_s + took_s - FREE_TOKEN_S)

    def accept(self, token: int) -> bool:
        """Advance; False when the grammar does not allow the token."""
        start_s = time.thread_time()
        accepted = bool(self._matcher.accept_token(token))
        self._charge(time.thread_time() - start_s)
        if accepted and self._forced:
            self._since.append(token)
        return accepted

    def accept_text(self, data: bytes) -> bool:
        """Advance by text that is no token of its own; False when the grammar does not allow it."""
        return bool(self._matcher.accept_string(data))

    def forced(self, most: int, least_chance: float) -> Sequence[int]:
        """Tokens that probably stand for the text that must follow."""
        if self._guesses is None:
            return ()
        if self._forced:
            self._guesses.note(self._forced, self._since)
            self._since.clear()
            self._forced = b""
        # In the middle of a long string the next token would be asked about in vain, over and over.
        if self._num_skipped < self._num_misses:
            self._num_skipped += 1
            return ()
        self._num_skipped = 0
        text = self._forced_text()
        self._num_misses = 0 if text else min(self._num_misses + 1, MOST_SKIPPED)
        self._forced = text.encode()
        return self._guesses.drafts(self._forced, most, least_chance) if text else ()

    def _forced_text(self) -> str:
        start_s = time.thread_time()
        try:
            text: str = self._matcher.find_jump_forward_string()
        except UnicodeDecodeError:
            # A token has ended in the middle of a character, whose other bytes are no text by themselves.
            return ""
        finally:
            self._charge(time.thread_time() - start_s)
        return text

    def rollback(self, num_tokens: int) -> None:
        """Go back before the last accepted tokens."""
        if num_tokens:
            self._matcher.rollback(num_tokens)
            del self._since[-num_tokens:]

    @property
    def batched(self) -> xgrammar.GrammarMatcher | None:
        """Xgrammar's own; None where `fill` has an error to tell, or must look at the time."""
        return None if self._is_slow or self._num_timed else self._matcher

    def suspect(self) -> None:
        """Have the next masks timed by themselves: the last was one of several that together took too long."""
        self._num_timed = _TIMED_MASKS

    @property
    def _is_slow(self) -> bool:
        return self._excess_s > MOST_EXCESS_S

    @property
    def is_done(self) -> bool:
        """A stop token ended the output: nothing more is allowed."""
        return bool(self._matcher.is_terminated())


class GrammarStore:
    """The compiled grammars of an executor, least recently used ones dropped first.

    Args:
        model_dir: Where the vocabulary is read, when the first grammar comes.
        vocab_size: Columns of the logits.
        stop_token_ids: The model's end-of-sequence ids.
        fetch: Asks the grammar service.
        jumps: Matchers guess tokens where text must follow.
        max_bytes: Bound of the compiled forms together.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        vocab_size: int,
        stop_token_ids: Sequence[int],
        fetch: Fetch,
        max_bytes: int,
        jumps: bool = True,
    ) -> None:
        self._model_dir = model_dir
        self._vocab_size = vocab_size
        self._stop_token_ids = tuple(stop_token_ids)
        self._fetch = fetch
        self._max_bytes = max_bytes
        self._jumps = jumps
        self._info: Any = None
        self._compiler: Any = None
        self._guesses: ForcedText | None = None
        self._token_bytes: list[bytes] | None = None
        self._reading = threading.Lock()
        self._compiled: OrderedDict[bytes, xgrammar.CompiledGrammar] = OrderedDict()
        self._fetching: dict[bytes, asyncio.Task[xgrammar.CompiledGrammar]] = {}
        self._sizes: dict[bytes, int] = {}
        self._size_bytes = 0

    async def matcher_of(self, params: SamplingParams) -> Matcher:
        """What follows a request with a grammar, or with a bound on its thoughts.

        Raises:
            BoughError: As `matcher`.
        """
        answer = None if params.grammar is None else await self.matcher(params.grammar)
        if params.reasoning is None:
            assert answer is not None
            return answer
        if self._token_bytes is None:
            self._token_bytes = await asyncio.to_thread(self._read_token_bytes)
        return ReasoningMatcher(
            params.reasoning, answer, token_bytes=self._token_bytes, stop_token_ids=self._stop_token_ids
        )

    async def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at the beginning of a grammar; fetches the compiled form unless it is here.

        Raises:
            BoughError: The grammar service cannot be reached or refuses, or its form cannot be read here.
        """
        return GrammarMatcher(await self._compiled_of(grammar), self._guesses)

    async def _compiled_of(self, grammar: Grammar) -> xgrammar.CompiledGrammar:
        compiled = self._compiled.get(grammar.key)
        if compiled is not None:
            self._keep(grammar.key, compiled)
            return compiled
        task = self._fetching.get(grammar.key)
        if task is None:
            task = self._fetching[grammar.key] = asyncio.create_task(self._get(grammar))
            # All who wait may be cancelled; the error then belongs to nobody.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def warm_up(self, grammar: Grammar) -> None:
        """Have the masks made that most schemas share.

        Args:
            grammar: Of `grammar_warmup.SCHEMA`.

        Raises:
            BoughError: As `matcher`.
        """
        compiled = await self._compiled_of(grammar)
        await asyncio.to_thread(grammar_warmup.walk, compiled, self._vocab_size)

    async def close(self) -> None:
        """Give up what is being fetched."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _get(self, grammar: Grammar) -> xgrammar.CompiledGrammar:
        try:
            written_by, serialized = await self._fetch(grammar)
            compiled = await asyncio.to_thread(self._read, written_by, serialized)
        finally:
            del self._fetching[grammar.key]
        self._keep(grammar.key, compiled)
        return compiled

    def _read(self, written_by: str, serialized: bytes) -> xgrammar.CompiledGrammar:
        if written_by != grammar_format():
            raise InvalidRequestError(f"compiled by {written_by}, this executor reads {grammar_format()}")
        with self._reading:
            if self._info is None:
                self._read_vocabulary()
        try:
            compiled: xgrammar.CompiledGrammar = self._compiler.compile_grammar(read_grammar(serialized))
        except (RuntimeError, ValueError) as error:
            raise InvalidRequestError(f"the compiled form cannot be read: {error}") from error
        return compiled

    def _read_vocabulary(self) -> None:
        vocabulary = read_vocabulary(self._model_dir)
        self._info = xgrammar_tokenizer_info(
            vocabulary, vocab_size=self._vocab_size, stop_token_ids=self._stop_token_ids
        )
        self._compiler = mask_compiler(self._info)
        if self._jumps:
            self._guesses = ForcedText(
                self._model_dir, self._info.decoded_vocab, adds_prefix_space=vocabulary.adds_prefix_space
            )

    def _read_token_bytes(self) -> list[bytes]:
        with self._reading:
            if self._info is None:
                self._read_vocabulary()
        found: list[bytes] = list(self._info.decoded_vocab)
        vocabulary = read_vocabulary(self._model_dir)
        for token in vocabulary.special_ids:
            found[token] = (vocabulary.tokens[token] or "").encode()
        return found

    def _keep(self, key: bytes, compiled: xgrammar.CompiledGrammar) -> None:
        """Note a use. A grammar grows by the masks that its sequences ask for: those used last are measured again."""
        self._compiled[key] = compiled
        self._compiled.move_to_end(key)
        for used, grown in islice(reversed(self._compiled.items()), _MEASURED_AGAIN):
            size_bytes = grown.memory_size_bytes
            self._size_bytes += size_bytes - self._sizes.get(used, 0)
            self._sizes[used] = size_bytes
        while self._size_bytes > self._max_bytes:
            dropped, _ = self._compiled.popitem(last=False)
            self._size_bytes -= self._sizes.pop(dropped)
