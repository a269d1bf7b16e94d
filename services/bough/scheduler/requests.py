"""What the scheduler records of each request: the truth that survives executors and consumers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from opentelemetry.trace import Span

from bough.common.requests import RequestFailure, Submission
from bough.common.sampling import FinishReason, TokenLogprobs

if TYPE_CHECKING:
    from bough.scheduler.consumers import Consumer
    from bough.scheduler.executors import Executor
    from bough.scheduler.programs import Program
    from bough.scheduler.prompts import SharedPrompt
    from bough.scheduler.queue import Waiting
    from bough.scheduler.timers import Timer

PROMPT_TAIL_TOKENS = 16
"""How much of the prompt a consumer gets to rebuild its text state: more than any tokenizer needs as context."""


class RequestState(Enum):
    """Where a request stands."""

    QUEUED = "queued"
    """Waits for an executor, for the first time or after one died."""
    ADMITTED = "admitted"
    """An executor has it, or has been sent it; also while that executor retracted it or cannot be reached."""
    ENDED = "ended"
    """Has a finish reason; kept until its consumer says that everything arrived."""


@dataclass(slots=True, kw_only=True, eq=False)
class RequestRecord:
    """One request, from its submission until it is forgotten. Compared by identity."""

    request: int
    submission: Submission
    index: int
    """Which sibling of the submission; it samples with the submission's seed + index."""
    consumer: Consumer
    """The stream it belongs to, also after that broke."""
    arrival: int
    """Running number of the submission."""
    submitted_s: float
    program: Program | None = None
    """Whose state it goes on from."""
    prompt: SharedPrompt | None = None
    """The submission's prompt where it goes on from a state: others may have the same one, or one that begins so."""
    state: RequestState = RequestState.QUEUED
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    """One entry a token where the request asked for them, else None."""
    cached_tokens: int | None = None
    """Prompt tokens that came from the prefix cache; None before the first token."""
    finish: FinishReason = FinishReason.NONE
    failure: RequestFailure | None = None
    sink: Consumer | None = None
    """Where new tokens go; None while the consumer is away or has not been sent what a resume asked for."""
    steady: bool = False
    """Its next row may take the short way through a step: it has begun on this executor and carries no logprobs."""
    executor: Executor | None = None
    waiting: Waiting | None = None
    """Its place in the queue while QUEUED."""
    order: int | None = None
    """Number of its first admission; smaller is computed first and retracted last."""
    readmitted: bool = False
    """Its order was repeated to an executor that may still hold it."""
    orders_whole_prompt: bool = False
    """Its executor did not know the base that its order named."""
    fruitless_deaths: int = 0
    """Deaths of executors since its last token."""
    deadline: Timer | None = None
    admitted_s: float | None = None
    first_token_s: float | None = None
    span: Span | None = None

    @property
    def turn(self) -> int:
        """Its place among requests of one priority: those of a program come by the program's first call."""
        return self.arrival if self.program is None else self.program.arrival

    @property
    def prompt_tail(self) -> tuple[int, ...]:
        """The last tokens of the prompt."""
        return tuple(self.submission.prompt[-PROMPT_TAIL_TOKENS:])

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output."""
        return len(self.submission.prompt) + len(self.tokens)

    @property
    def ended(self) -> bool:
        """Whether it has a finish reason."""
        return self.state is RequestState.ENDED
