"""Text to token ids with the model's own tokenizer, exactly as Hugging Face's tokenizers do it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bough.common.errors import ModelError

NAMED_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TextEncoder:
    """The tokenizer of a model directory. Methods compute for as long as the text is long and release the GIL."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A file may carry the truncation and padding of its training run; serving wants neither.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    @classmethod
    def from_directory(cls, path: Path) -> TextEncoder:
        """Load `tokenizer.json`. Its post-processor says what is added; transformers too ignores `add_bos_token` then.

        Raises:
            ModelError: The file is missing or broken.
        """
        file = path / "tokenizer.json"
        if not file.exists():
            raise ModelError(f"model directory {str(path)!r} lacks tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a broken file
            raise ModelError(f"{str(file)!r} is not a tokenizer file: {error}") from None
        return cls(tokenizer)

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each text."""
        # Neither offsets nor masks are wanted; they would cost as much again as the ids.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]


def read_tokenizer_config(path: Path) -> dict[str, Any]:
    """Read `tokenizer_config.json` of a model directory; an absent file says nothing.

    Raises:
        ModelError: The file is not a JSON object.
    """
    return _read_json_object(path / "tokenizer_config.json")


def special_tokens(path: Path, config: dict[str, Any]) -> dict[str, str]:
    """The named special tokens (`bos_token`, ...) that chat templates see, those that are set."""
    # The older file is only consulted for what tokenizer_config.json does not say.
    named = {**_read_json_object(path / "special_tokens_map.json"), **{k: v for k, v in config.items() if v}}
    return {name: text for name in NAMED_SPECIAL_TOKENS if (text := _token_text(named.get(name)))}


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ModelError(f"{str(path)!r} holds {type(parsed).__name__}, not an object")
    return parsed
