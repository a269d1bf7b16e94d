"""Token ids of text in the middle of an output."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from tokenizers import Tokenizer

_ANCHOR = "\n"
_MAX_TEXTS = 4096


class TextEncoder:
    """The model's tokenizer without what it adds at the beginning and the end of a text.

    Args:
        model_dir: Where `tokenizer.json` is.
        adds_prefix_space: The tokenizer begins texts with a space of its own.
    """

    def __init__(self, model_dir: Path, *, adds_prefix_space: bool) -> None:
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._anchor = _ANCHOR if adds_prefix_space else ""
        self._known: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def __call__(self, text: str) -> tuple[int, ...]:
        """The ids of a text; the same texts come again and again, and are kept."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = self._encode(text)
            if len(self._known) > _MAX_TEXTS:
                self._known.popitem(last=False)
        return ids

    def _encode(self, text: str) -> tuple[int, ...]:
        before = self._ids(self._anchor) if self._anchor else ()
        ids = self._ids(self._anchor + text)
        # Where the anchor grows together with the text, nothing is known of the text alone.
        return ids[len(before) :] if ids[: len(before)] == before else ()

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
