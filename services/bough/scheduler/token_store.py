"""Sequences of tokens that share what they have in common: what the states of programs are made of.

A sequence is a path of segments from a root; a branch begins as the same path, so it costs nothing however long the
sequence is. A segment that one sequence alone uses grows in place, others end where somebody branched off.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable

from bough.scheduler.prompts import SharedPrompt

MAX_PROMPT_TOKENS = 1 << 20
"""Whole prompts are kept up to so many tokens together, those that they share counted once: some 40 MB, and the oldest
go first."""

_Key = tuple["_Segment", int, tuple[int, ...]]


class _Segment:
    """Tokens from `start` on. Only what is behind all of its users may ever change."""

    __slots__ = ("num_users", "parent", "prompts", "start", "tokens")

    def __init__(self, parent: _Segment | None, start: int) -> None:
        self.parent = parent
        self.start = start
        self.tokens = array("I")
        self.num_users = 0
        """Sequences that end here, and segments that go on from here."""
        self.prompts: dict[tuple[int, tuple[int, ...]], SharedPrompt] = {}
        """Whole prompts by the length of the sequence and what follows it."""

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def slice(self, start: int, end: int) -> array[int]:
        return self.tokens[start - self.start : end - self.start]

    def longest_prompt(self, length: int) -> SharedPrompt | None:
        """The longest prompt kept of a sequence that ends here with at most so many tokens."""
        known = [own for own, suffix in self.prompts if own <= length and not suffix]
        return self.prompts[max(known), ()] if known else None


class TokenStore:
    """Holds the tokens of all sequences.

    Args:
        forgotten: Called with each whole prompt that is not kept any more.
        max_prompt_tokens: Bound of the whole prompts that are kept to be used again.
    """

    def __init__(
        self, forgotten: Callable[[SharedPrompt], None], *, max_prompt_tokens: int = MAX_PROMPT_TOKENS
    ) -> None:
        self._forgotten = forgotten
        self.num_tokens = 0
        """Tokens held; what several sequences share counts once."""
        self._max_prompt_tokens = max_prompt_tokens
        self._num_prompt_tokens = 0
        self._recent: OrderedDict[_Key, SharedPrompt] = OrderedDict()

    def new(self) -> TokenSequence:
        """An empty sequence."""
        return TokenSequence(self, _Segment(None, 0), 0)

    # For sequences only.

    def grow(self, segment: _Segment, tokens: Iterable[int]) -> None:
        """Add tokens behind the end of a segment."""
        before = len(segment.tokens)
        segment.tokens.extend(tokens)
        self.num_tokens += len(segment.tokens) - before

    def shrink(self, segment: _Segment, length: int) -> None:
        """Drop what is in a segment behind a length of which nobody knows."""
        dropped = segment.end - length
        if dropped > 0:
            del segment.tokens[length - segment.start :]
            self.num_tokens -= dropped
            self._forget(segment, [key for key in segment.prompts if key[0] > length])

    def drop_user(self, segment: _Segment | None) -> None:
        """One user less; without any a segment goes, and with it perhaps those before it."""
        while segment is not None:
            segment.num_users -= 1
            if segment.num_users:
                return
            self.num_tokens -= len(segment.tokens)
            self._forget(segment, list(segment.prompts))
            segment = segment.parent

    def prompt(self, segment: _Segment, length: int, suffix: tuple[int, ...]) -> SharedPrompt:
        """A sequence and what follows it, as one tuple; the same one as long as it is kept."""
        known = segment.prompts.get((length, suffix))
        if known is not None:
            self._recent.move_to_end((segment, length, suffix))
            return known
        if suffix:
            before = self.prompt(segment, length, ())
            return self._keep(segment, length, suffix, SharedPrompt(suffix, before))
        prefix = segment.longest_prompt(length)
        if prefix is None and segment.parent is not None:
            # Of a state with many branches: all of them begin with it, so it is kept as long as they come.
            prefix = self._gather(segment.parent, segment.start)
            if (shared := (segment.parent, segment.start, ())) in self._recent:
                self._recent.move_to_end(shared)
        return self._gather(segment, length, prefix)

    def _gather(self, segment: _Segment, length: int, prefix: SharedPrompt | None = None) -> SharedPrompt:
        pieces: list[array[int]] = []
        at, end = segment, length
        while prefix is None and at.parent is not None and (prefix := at.longest_prompt(end)) is None:
            pieces.append(at.slice(at.start, end))
            at, end = at.parent, at.start
        prefix = prefix or at.longest_prompt(end)
        num_known = 0 if prefix is None else len(prefix.tokens)
        if num_known == length and prefix is not None:
            return prefix
        pieces.append(at.slice(max(at.start, num_known), end))
        tokens = array("I")
        for piece in reversed(pieces):
            tokens.extend(piece)
        return self._keep(segment, length, (), SharedPrompt(tuple(tokens), prefix))

    def _keep(self, segment: _Segment, length: int, suffix: tuple[int, ...], prompt: SharedPrompt) -> SharedPrompt:
        self._recent[segment, length, suffix] = segment.prompts[length, suffix] = prompt
        prompt.is_kept = True
        self._num_prompt_tokens += prompt.num_own
        while self._num_prompt_tokens > self._max_prompt_tokens:
            oldest, own, behind = next(iter(self._recent))
            self._forget(oldest, [(own, behind)])
        return prompt

    def _forget(self, segment: _Segment, keys: Iterable[tuple[int, tuple[int, ...]]]) -> None:
        for length, suffix in keys:
            prompt = segment.prompts.pop((length, suffix))
            del self._recent[segment, length, suffix]
            self._num_prompt_tokens -= prompt.num_own
            prompt.is_kept = False
            self._forgotten(prompt)


class TokenSequence:
    """A sequence; made by `TokenStore.new` and `branch`, and to be released."""

    __slots__ = ("_segment", "_store", "length")

    def __init__(self, store: TokenStore, segment: _Segment, length: int) -> None:
        segment.num_users += 1
        self._store = store
        self._segment = segment
        self.length = length

    def branch(self) -> TokenSequence:
        """A sequence that is equal to this one now."""
        return TokenSequence(self._store, self._segment, self.length)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens."""
        segment = self._segment
        if segment.num_users == 1:
            self._store.shrink(segment, self.length)  # what a longer sequence has left behind
        else:
            # The place of this sequence among the users of the old segment is now that of the new one.
            segment = self._segment = _Segment(segment, self.length)
            segment.num_users = 1
        self._store.grow(segment, tokens)
        self.length = segment.end

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens, which must be there."""
        assert length <= self.length
        segment = self._segment
        while segment.parent is not None and length <= segment.start:
            segment = segment.parent
        if segment is not self._segment:
            segment.num_users += 1
            self._store.drop_user(self._segment)
            self._segment = segment
        if segment.num_users == 1:
            self._store.shrink(segment, length)
        self.length = length

    def release(self) -> None:
        """Give it up; it must not be used any more."""
        self._store.drop_user(self._segment)

    def since(self, start: int) -> list[int]:
        """The tokens from `start` on."""
        pieces: list[array[int]] = []
        segment: _Segment | None = self._segment
        end = self.length
        while end > start and segment is not None:
            begin = max(start, segment.start)
            pieces.append(segment.slice(begin, end))
            segment, end = segment.parent, begin
        return [token for piece in reversed(pieces) for token in piece]

    def prompt(self, suffix: tuple[int, ...] = ()) -> SharedPrompt:
        """It and what follows it as a prompt, which equal ones share."""
        return self._store.prompt(self._segment, self.length, suffix)
