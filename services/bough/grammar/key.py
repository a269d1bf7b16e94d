"""The name of a compiled grammar: a hash of all that decides about its compiled form."""

from __future__ import annotations

from hashlib import sha256

from bough.common.sampling import GrammarKind


def grammar_key(kind: GrammarKind, text: str, *, vocab_hash: bytes, format_version: str) -> bytes:
    """SHA-256 over kind, text, vocabulary and format; 32 bytes. Equal sources have equal keys in every copy."""
    digest = sha256()
    # Each part goes with its length, so that no two different sources can run into the same bytes.
    for part in (kind.name.encode(), text.encode(), vocab_hash, format_version.encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
