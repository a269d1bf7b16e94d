"""Requests as they come in: what is wrong with them, and what the engine keeps of them otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bough.common.errors import InternalError, InvalidRequestError
from bough.common.sampling import FinishReason
from bough.executor.orders import Admission
from bough.executor.running import Running
from bough.executor.sampling import StopRule
from bough.executor.sequence import Sequence as Row


class Model(Protocol):
    """What the engine has to know of the model that its pipeline runs."""

    max_context: int
    """Tokens a sequence may have."""

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        ...

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        ...

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        ...

    @property
    def context_cost(self) -> float:
        """What a token of context adds to the cost of computing a token, in tokens without context."""
        ...


def make_running(admission: Admission, model: Model, eos_token_ids: Sequence[int]) -> Running:
    """The request of an admission.

    Raises:
        InvalidRequestError: The model cannot run it.
        InternalError: Its matcher is missing.
    """
    tokens, base = [*admission.prompt, *admission.produced], admission.base
    num_prompt, max_context = admission.num_prompt, model.max_context
    if not admission.prompt or num_prompt >= max_context:
        raise InvalidRequestError(f"prompt: {num_prompt} tokens; 1 to {max_context - 1} are accepted", field="prompt")
    if (largest := max(max(tokens), 0 if base is None else base.largest)) >= model.vocab_size:
        raise InvalidRequestError(
            f"prompt: token id {largest} is not below the vocabulary size {model.vocab_size}", field="prompt"
        )
    matcher = admission.matcher
    if (matcher is None) == admission.sampling.needs_matcher:
        raise InternalError("a request with a grammar came without its matcher")
    if matcher is not None:
        for token in admission.produced:
            if not matcher.accept(token):
                raise InvalidRequestError(f"grammar: produced token {token} does not fit it", field="grammar")
    stop = StopRule.build(
        admission.sampling,
        eos_token_ids=eos_token_ids,
        num_prompt_tokens=num_prompt,
        max_context=max_context,
    )
    sequence = Row(
        request_id=admission.request,
        tokens=tokens,
        num_prompt=num_prompt,
        params=admission.sampling,
        base=base,
        namespace=admission.cache_namespace,
        order=admission.order,
        max_length=num_prompt + stop.max_tokens,
    )
    return Running(admission=admission, stop=stop, matcher=matcher, sequence=sequence)


def reached_end(running: Running) -> FinishReason:
    """Why a request ends at once whose produced tokens are all there will be; NONE where it goes on."""
    produced = running.admission.produced
    if not produced:
        return FinishReason.NONE
    finish = running.stop.reason(produced[-1], len(produced) - 1)
    if finish is FinishReason.NONE and running.matcher is not None and running.matcher.is_done:
        return FinishReason.STOP
    return finish
