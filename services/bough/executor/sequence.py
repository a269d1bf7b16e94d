"""A request inside the executor: its tokens, and what of them is computed where."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from bough.common.prefix_hash import TOKEN_BYTES, token_bytes
from bough.common.sampling import SamplingParams
from bough.executor.bases import Base
from bough.executor.cache.nodes import Node


class SequenceStatus(Enum):
    """Where a sequence stands in the composer."""

    WAITING = auto()
    """Has no row; also after a retraction."""
    PARKED = auto()
    """Has no row and waits until another sequence computed the prefix that both share."""
    PREFILLING = auto()
    """Has a row and more than one token to compute."""
    DECODING = auto()
    """Has a row and one token to compute: the one sampled last."""
    DRAFTING = auto()
    """Has a row and a step under way that computes drafts after its last token."""
    FINISHING = auto()
    """Has a row and nothing to compute: its last token is sampled, but not yet recorded."""
    ENDED = auto()
    """Finished, cancelled or failed: row and pages are given back."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One running or waiting request. The composer alone changes it, the first five fields apart."""

    request_id: int
    tokens: list[int] = field(repr=False)
    """Those behind the base: of the prompt, then generated ones (all of them at a re-admission)."""
    num_prompt: int
    """Tokens of the prompt, those of the base included."""
    params: SamplingParams
    base: Base | None = None
    """What the prompt begins with."""
    num_base: int = field(init=False)
    """Tokens of the base."""
    namespace: bytes = b""
    """Whose cache entries may be shared (tenant salt, adapter)."""
    order: int = 0
    """Rank given by the scheduler: smaller runs first, greater gives way first."""
    max_length: int = 1 << 62
    """Tokens, prompt included, after which nothing more is computed."""

    status: SequenceStatus = SequenceStatus.WAITING
    num_computed: int = 0
    """K/V of this many tokens are in `pages`, or will be when the steps under way have run."""
    num_pending: int = 0
    """Tokens sampled in steps under way, which `tokens` does not hold yet."""
    drafts: tuple[int, ...] = ()
    """What the step under way computes on trial after the last token."""
    head: list[int] = field(default_factory=list, repr=False)
    """Pages of the base that were found by its pin: one list for all who have it, not to be changed."""
    pages: list[int] = field(default_factory=list, repr=False)
    """Behind the head. Page i of both together holds tokens i * page_size and following."""
    row: int | None = None
    """Stable row among the running sequences."""
    num_cached_tokens: int = 0
    """Tokens found in the cache when the sequence first got a row."""
    was_admitted: bool = False
    was_retracted: bool = False

    node: Node | None = field(default=None, repr=False)
    """Locked end of the part of `pages` that the radix tree owns."""
    num_published: int = 0
    """Full pages that the tree owns; one more, partly filled, when `node` is a tail."""
    is_diverted: bool = False
    """The tree got the same tokens from another sequence: the pages that follow stay private until the end."""
    headroom_pages: int = 0
    """Pages that admission keeps free for this running sequence's next tokens."""

    key: bytes | None = field(default=None, repr=False)
    """`tokens`, packed, while it waits and computes its prompt; use `packed`."""
    page_in_progress: bytes | None = field(default=None, repr=False)
    """Hash of the next full page of the prefill, under which others find that it is being computed."""
    waits_for: Sequence | None = field(default=None, repr=False)
    awaited_pages: int = 0
    """Published pages of `waits_for` that end the wait."""
    waiters: list[Sequence] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        """Counts what is before `tokens`."""
        self.num_base = 0 if self.base is None else self.base.num_tokens

    @property
    def num_pages(self) -> int:
        """Pages, those of the head included."""
        return len(self.head) + len(self.pages)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output that are recorded."""
        return self.num_base + len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens, those of steps under way included."""
        return self.num_base + len(self.tokens) + self.num_pending

    @property
    def num_uncomputed(self) -> int:
        """Tokens still to compute; 1 for a decode."""
        return self.length - self.num_computed

    @property
    def num_known(self) -> int:
        """Computed tokens whose ids are recorded: what the cache may be told of."""
        return min(self.num_computed, self.num_base + len(self.tokens))

    @property
    def num_generated(self) -> int:
        """Tokens after the prompt."""
        return self.num_base + len(self.tokens) - self.num_prompt

    def since(self, start: int) -> list[int]:
        """All tokens from position `start` on."""
        if start >= self.num_base or self.base is None:
            return self.tokens[start - self.num_base :]
        return self.base.since(start) + self.tokens

    def packed(self, start: int, end: int) -> bytes:
        """The tokens at positions `start` to `end - 1` as `token_bytes` packs them."""
        num_base = self.num_base
        if start >= num_base or self.base is None:
            if self.key is None:
                return token_bytes(self.tokens[start - num_base : end - num_base])
            return self.key[(start - num_base) * TOKEN_BYTES : (end - num_base) * TOKEN_BYTES]
        before = self.base.packed[start * TOKEN_BYTES : end * TOKEN_BYTES]
        return before + self.packed(num_base, end) if end > num_base else before
