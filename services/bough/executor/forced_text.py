"""Which tokens a model makes of text that a grammar forces.

The tokenizer's own cut is what a model was trained on, and a first guess. Small models, and those at the border of what
they know, cut otherwise, but much the same each time: so what was produced where the same text had to follow is
remembered, and guessed the next time. A wrong guess costs the computing of some tokens and changes no output.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

_ANCHOR = "\n"
_MAX_TEXTS = 1 << 15
_MAX_CUTS = 4096
_MOST_SEEN = 32.0
"""How often a guess counts as seen at most, so that a model's change of mind is noticed."""


@dataclass(slots=True)
class _Guess:
    """What followed where some text had to."""

    token: int
    right: float = 1.0
    seen: float = 1.0

    @property
    def chance(self) -> float:
        """That it follows again."""
        return (self.right + 1) / (self.seen + 2)


class ForcedText:
    """Guesses for one model, shared by all its grammars. Used by one thread.

    Args:
        model_dir: Where `tokenizer.json` is.
        token_bytes: What each token adds to the text; empty for those that add none.
        adds_prefix_space: The tokenizer begins texts with a space of its own.
    """

    def __init__(self, model_dir: Path, token_bytes: Sequence[bytes], *, adds_prefix_space: bool) -> None:
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._token_bytes = token_bytes
        self._anchor = _ANCHOR if adds_prefix_space else ""
        self._guesses: OrderedDict[bytes, _Guess] = OrderedDict()
        self._cuts: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._cut_right = self._cut_seen = 4.0

    def drafts(self, text: bytes, most: int, least_chance: float) -> list[int]:
        """Tokens that probably follow where `text` must.

        Args:
            text: UTF-8.
            most: tokens at most.
            least_chance: that a token and all before it are right; with less it is left out.
        """
        found: list[int] = []
        chance = 1.0
        while text and len(found) < most:
            guess = self._guesses.get(text)
            if guess is None:
                return found + self._cut_likely(text, chance, least_chance)[: most - len(found)]
            chance *= guess.chance
            if chance < least_chance:
                break
            found.append(guess.token)
            text = self._after(text, guess.token)
        return found

    def note(self, text: bytes, tokens: Sequence[int]) -> None:
        """These tokens followed where `text` had to, and maybe others after it."""
        for token in tokens:
            if not text:
                return
            guess = self._guesses.get(text)
            if guess is None:
                cut = self._cut(text)
                self._cut_seen += 1
                self._cut_right += bool(cut) and cut[0] == token
                self._guesses[text] = _Guess(token)
                if len(self._guesses) > _MAX_TEXTS:
                    self._guesses.popitem(last=False)
            else:
                _learn(guess, token)
                self._guesses.move_to_end(text)
            text = self._after(text, token)

    def _after(self, text: bytes, token: int) -> bytes:
        """What must still follow after a token; nothing where it goes beyond."""
        data = self._token_bytes[token]
        return text[len(data) :] if data and text.startswith(data) else b""

    def _cut_likely(self, text: bytes, chance: float, least_chance: float) -> list[int]:
        """As much of the tokenizer's cut as is likely enough."""
        found: list[int] = []
        for token in self._cut(text):
            chance *= self._cut_right / self._cut_seen
            if chance < least_chance:
                break
            found.append(token)
        return found

    def _cut(self, text: bytes) -> tuple[int, ...]:
        ids = self._cuts.get(text)
        if ids is None:
            ids = self._cuts[text] = self._encode(text)
            if len(self._cuts) > _MAX_CUTS:
                self._cuts.popitem(last=False)
        return ids

    def _encode(self, data: bytes) -> tuple[int, ...]:
        text = data.decode(errors="ignore")
        before = self._ids(self._anchor) if self._anchor else ()
        ids = self._ids(self._anchor + text)
        # Where the anchor grows together with the text, nothing is known of the text alone.
        return ids[len(before) :] if ids[: len(before)] == before else ()

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _learn(guess: _Guess, token: int) -> None:
    if guess.seen >= _MOST_SEEN:
        guess.seen /= 2
        guess.right /= 2
    guess.seen += 1
    if token == guess.token:
        guess.right += 1
    elif guess.right < guess.seen / 2:
        guess.token, guess.right, guess.seen = token, 1.0, 1.0
