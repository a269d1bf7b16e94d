"""The name of a compiled grammar: a hash of all that decides about its compiled form."""

from __future__ import annotations

from hashlib import sha256

from bough.common.sampling import GrammarKind
from bough.grammar.sources import REVISION


def grammar_key(kind: GrammarKind, text: str, *, vocab_hash: bytes, format_version: str) -> bytes:
    """SHA-256, 32 bytes, over kind, text, vocabulary, format and `REVISION`. Equal in every copy."""
    digest = sha256()
    # Each part goes with its length, so that no two different sources can run into the same bytes.
    for part in (kind.name.encode(), text.encode(), vocab_hash, format_version.encode(), REVISION.encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
