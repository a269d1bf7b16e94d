"""A model's vocabulary, read from `tokenizer.json` without the tokenizers library.

Hugging Face's decoders are pipelines of small steps over token strings. Nearly all models use one of two shapes, and
for those the text of a token is known without its neighbours, which is what makes streaming exact and cheap:

    byte level     each character of a token stands for one byte (the alphabet of GPT-2)
    plain          tokens are text after replacements ("▁" to a space); with byte fallback, "<0x0A>" is one byte

Any other pipeline is `UNKNOWN` here and must be decoded by the tokenizers library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bough.common.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class DecoderKind(Enum):
    """How token strings become text."""

    BYTE_LEVEL = "byte level"
    PLAIN = "plain"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """The decoder of a vocabulary, as far as streaming must know it."""

    kind: DecoderKind
    replacements: tuple[tuple[str, str], ...] = ()
    """(from, to), applied to each token string in this order; for PLAIN."""
    byte_fallback: bool = False
    """Tokens of the form `<0xHH>` are bytes; a run of them is text if it is valid UTF-8 as a whole."""
    strip_left: int = 0
    """Spaces taken off the beginning of the whole text, at most."""
    bare_first: str = ""
    """A character that is dropped from the first token instead of being replaced (the Metaspace rule)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens by id. Ids without a token are None and decode to nothing."""

    tokens: tuple[str | None, ...]
    special_ids: frozenset[int]
    added_ids: frozenset[int]
    decoder: DecoderSpec
    adds_prefix_space: bool
    """The tokenizer puts a space before the text it encodes."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Read `tokenizer.json`.

    Args:
        path: The file, or the model directory it is in.

    Raises:
        ModelError: The file is missing or is not a tokenizer; the message names it.
    """
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        parsed = json.loads(path.read_bytes())
        return parse_vocabulary(parsed)
    except FileNotFoundError:
        raise ModelError(f"model directory {str(path.parent)!r} lacks tokenizer.json") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{str(path)!r} is not a tokenizer file: {type(error).__name__}: {error}") from None


def parse_vocabulary(parsed: dict[str, Any]) -> Vocabulary:
    """The vocabulary in a parsed `tokenizer.json`; KeyError, TypeError or ValueError where it is not one."""
    vocab = parsed["model"]["vocab"]
    by_id: dict[int, str] = (
        {i: entry[0] for i, entry in enumerate(vocab)} if isinstance(vocab, list) else {i: t for t, i in vocab.items()}
    )
    added = parsed.get("added_tokens") or []
    by_id.update({entry["id"]: entry["content"] for entry in added})
    tokens: list[str | None] = [None] * (max(by_id, default=-1) + 1)
    for index, token in by_id.items():
        tokens[index] = token
    return Vocabulary(
        tokens=tuple(tokens),
        special_ids=frozenset(entry["id"] for entry in added if entry.get("special")),
        added_ids=frozenset(entry["id"] for entry in added),
        decoder=_decoder_of(parsed.get("decoder")),
        adds_prefix_space=_adds_prefix_space(parsed.get("normalizer"), parsed.get("pre_tokenizer")),
    )


def xgrammar_tokenizer_info(vocabulary: Vocabulary, *, vocab_size: int, stop_token_ids: Collection[int]) -> Any:
    """The `xgrammar.TokenizerInfo` of a vocabulary; equal wherever compiled grammars are exchanged.

    Special tokens that are not stop tokens are given as empty: they are left out of the text, so that an output with
    one of them in it would match the grammar and yet not be what the client gets.

    Args:
        vocabulary: The tokens.
        vocab_size: Rows of the model's logits, which may be more than there are tokens.
        stop_token_ids: Ids that may follow a complete output: the model's end-of-sequence ids.
    """
    import xgrammar  # here, because it brings torch along and most of those who read vocabularies never need it

    kind = {
        DecoderKind.BYTE_LEVEL: xgrammar.VocabType.BYTE_LEVEL,
        DecoderKind.PLAIN: xgrammar.VocabType.BYTE_FALLBACK,
        DecoderKind.UNKNOWN: xgrammar.VocabType.RAW,
    }[vocabulary.decoder.kind]
    hidden = vocabulary.special_ids.difference(stop_token_ids)
    tokens = ["" if token is None or i in hidden else token for i, token in enumerate(vocabulary.tokens[:vocab_size])]
    tokens += [""] * (vocab_size - len(tokens))
    return xgrammar.TokenizerInfo(
        tokens,
        kind,
        vocab_size=vocab_size,
        stop_token_ids=sorted(set(stop_token_ids)),
        add_prefix_space=vocabulary.adds_prefix_space,
    )


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: the character that stands for each byte. Printable bytes stand for themselves."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def fallback_byte(token: str) -> int | None:
    """The byte that `<0xHH>` stands for; None for any other token."""
    return int(token[3:5], 16) if _BYTE_TOKEN.fullmatch(token) else None


def _decoder_of(parsed: dict[str, Any] | None) -> DecoderSpec:
    steps = _flatten(parsed, "decoders")
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return DecoderSpec(kind=DecoderKind.BYTE_LEVEL)
    if kinds == ["Metaspace"]:
        return _metaspace(steps[0])
    return _plain(steps) if kinds else DecoderSpec(kind=DecoderKind.UNKNOWN)


def _metaspace(step: dict[str, Any]) -> DecoderSpec:
    mark = step.get("replacement", "▁")
    # Files older than `prepend_scheme` say the same with add_prefix_space.
    scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
    return DecoderSpec(
        kind=DecoderKind.PLAIN, replacements=((mark, " "),), bare_first="" if scheme == "never" else mark
    )


def _plain(steps: list[dict[str, Any]]) -> DecoderSpec:
    """Replace* ByteFallback? Fuse? Strip?, the pipeline of converted SentencePiece models; UNKNOWN for any other."""
    unknown = DecoderSpec(kind=DecoderKind.UNKNOWN)
    remaining = list(steps)
    replacements: list[tuple[str, str]] = []
    while remaining and remaining[0]["type"] == "Replace":
        step = remaining.pop(0)
        if "String" not in step["pattern"]:
            return unknown
        replacements.append((step["pattern"]["String"], step["content"]))
    byte_fallback = _take(remaining, "ByteFallback") is not None
    fused = _take(remaining, "Fuse") is not None
    strip = _take(remaining, "Strip")
    # Without Fuse the strip would apply to every token by itself.
    if remaining or (strip is not None and (not fused or strip["content"] != " " or strip["stop"])):
        return unknown
    return DecoderSpec(
        kind=DecoderKind.PLAIN,
        replacements=tuple(replacements),
        byte_fallback=byte_fallback,
        strip_left=strip["start"] if strip else 0,
    )


def _take(steps: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    return steps.pop(0) if steps and steps[0]["type"] == kind else None


def _flatten(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for child in step[key] for inner in _flatten(child, key)]
    return [step]


def _adds_prefix_space(normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None) -> bool:
    for step in _flatten(normalizer, "normalizers"):
        if step["type"] == "Prepend" and step.get("prepend") == "▁":
            return True
    for step in _flatten(pre_tokenizer, "pretokenizers"):
        if step["type"] == "Metaspace":
            return step.get("prepend_scheme", "always") != "never" and bool(step.get("add_prefix_space", True))
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            return True
    return False
