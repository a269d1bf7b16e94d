"""What each token id stands for, worked out once: its bytes, and its text where that does not depend on neighbours."""

from __future__ import annotations

from collections.abc import Iterable

from bough.common.vocab import DecoderKind, DecoderSpec, Vocabulary, byte_level_alphabet, fallback_byte


class TokenTable:
    """Bytes and texts by token id.

    Attributes:
        data: Bytes of each token; empty for ids without one.
        texts: Text of each token, or None where only its neighbours make it text: part of a multi-byte character,
            or a byte of a byte-fallback run.
        missing: Ids below the highest one that no token has; they decode to nothing, as ids beyond do.
        specials: Ids that `skip_special_tokens` leaves out.
        spec: How the pieces are put together.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.spec: DecoderSpec = vocabulary.decoder
        self.missing = frozenset(i for i, token in enumerate(vocabulary.tokens) if token is None)
        self.specials = vocabulary.special_ids
        if self.spec.kind is DecoderKind.BYTE_LEVEL:
            self.data = _byte_level(vocabulary.tokens)
            self.texts = [_text_of(data) for data in self.data]
        else:
            self.data, self.texts = _plain(vocabulary.tokens, self.spec)
        self.bare_texts = _bare_texts(vocabulary.tokens, self.spec)
        """Texts of tokens that come first, where those differ (the Metaspace rule)."""

    def left_out(self, *, skip_special_tokens: bool) -> frozenset[int]:
        """Ids that take no part in the text."""
        return self.missing | self.specials if skip_special_tokens else self.missing

    @property
    def streams_by_bytes(self) -> bool:
        """Whether text can be made of these pieces; otherwise the tokenizers library must decode."""
        return self.spec.kind is not DecoderKind.UNKNOWN

    def bytes_of(self, token: int) -> bytes:
        """Bytes of a token; empty for an id that the vocabulary does not have."""
        return self.data[token] if token < len(self.data) else b""


def _byte_level(tokens: Iterable[str | None]) -> list[bytes]:
    alphabet = byte_level_alphabet()
    found = []
    for token in tokens:
        try:
            found.append(bytes([alphabet[char] for char in token or ""]))
        except KeyError:
            # An added token with a character outside the alphabet stands for itself.
            found.append((token or "").encode())
    return found


def _plain(tokens: Iterable[str | None], spec: DecoderSpec) -> tuple[list[bytes], list[str | None]]:
    data: list[bytes] = []
    texts: list[str | None] = []
    for token in tokens:
        text = token or ""
        for old, new in spec.replacements:
            text = text.replace(old, new)
        byte = fallback_byte(text) if spec.byte_fallback else None
        data.append(text.encode() if byte is None else bytes([byte]))
        texts.append(text if byte is None else None)
    return data, texts


def _bare_texts(tokens: Iterable[str | None], spec: DecoderSpec) -> list[str] | None:
    return [(token or "").replace(spec.bare_first, "") for token in tokens] if spec.bare_first else None


def _text_of(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
