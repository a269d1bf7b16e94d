"""Token ids to text, one token at a time, equal to decoding all of them at once.

Nothing is decoded twice: a token either is text by itself (a table lookup) or adds bytes to an unfinished character. So
a token costs the same whether it is the tenth or the ten-thousandth, and a long run of tokens that never become valid
text costs no more than any other.

What has come out never changes. Text that a later token may still turn into something else is held back:

- byte level: the bytes of an unfinished UTF-8 character, three at most;
- byte fallback: Hugging Face's decoder replaces *every* byte of a run of byte tokens by U+FFFD when the run as a whole
  is not valid UTF-8. So a run comes out when it ends, or at once from the moment it cannot become valid any more.

The last tokens of the prompt are context: they decide about a space at the beginning, and a character that they begin
and the output finishes belongs to the output.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

from bough.common.vocab import DecoderKind
from bough.detokenizer.token_table import TokenTable

REPLACEMENT = "\ufffd"


class TextStream(Protocol):
    """Text of one growing sequence of tokens."""

    def push(self, token: int) -> str:
        """Add a token; returns the text that has become final."""

    def flush(self) -> str:
        """No token will follow; returns the text that was held back."""

    def tokens_behind(self, num_chars: int) -> int:
        """How many tokens hold nothing but the last `num_chars` of what `push` or `flush` returned just now.

        Text that was held back over several tokens comes out at once; a stop string in it may end before the last one.
        """


class ByteLevelStream:
    """Byte-level BPE: the bytes of all tokens, one after the other, decoded as UTF-8."""

    __slots__ = ("_data", "_from_prompt", "_left_out", "_pending", "_size", "_texts")

    def __init__(self, table: TokenTable, *, skip_special_tokens: bool, prompt_tail: Sequence[int] = ()) -> None:
        self._texts = table.texts
        self._data = table.data
        self._size = len(table.texts)
        self._left_out = table.left_out(skip_special_tokens=skip_special_tokens)
        self._pending = unfinished(b"".join(table.bytes_of(t) for t in prompt_tail if t not in self._left_out))
        self._from_prompt = bool(self._pending)

    def push(self, token: int) -> str:
        """Add a token; returns the text that has become final."""
        if token in self._left_out or token >= self._size:
            return ""
        if not self._pending:
            text = self._texts[token]
            if text is not None:
                return text
        return self._push_bytes(self._data[token])

    def _push_bytes(self, data: bytes) -> str:
        if self._from_prompt and data:
            self._from_prompt = False
            if not continues(self._pending, data):
                self._pending = b""  # the prompt's broken character, not ours
        data = self._pending + data
        text, consumed = utf_8_decode(data, "replace", False)
        self._pending = data[consumed:]
        return text

    def flush(self) -> str:
        """No token will follow; returns the text that was held back."""
        broken = b"" if self._from_prompt else self._pending
        self._pending = b""
        # Mostly one broken character; half of a surrogate is held back as if it were one, and is two.
        return broken.decode("utf-8", "replace")

    def tokens_behind(self, num_chars: int) -> int:
        """None: a character comes out with the token that completes it."""
        return 0


class PlainStream:
    """Tokens that are text by themselves, byte fallback, and rules for the beginning of the text."""

    __slots__ = ("_bare", "_count", "_data", "_ended", "_ended_at", "_left_out", "_own", "_run", "_strip", "_texts")

    def __init__(self, table: TokenTable, *, skip_special_tokens: bool, prompt_tail: Sequence[int] = ()) -> None:
        self._texts = table.texts
        self._data = table.data
        self._left_out = table.left_out(skip_special_tokens=skip_special_tokens)
        self._bare = table.bare_texts
        self._strip = table.spec.strip_left
        self._count = 0
        self._ended = ""  # text of the run that ended in the last call, and which token made each of its bytes
        self._ended_at: list[int] = []
        self._own = 0  # characters of the last call that are not of that run
        self._run = _ByteRun()
        for token in self._from_first_character(prompt_tail):
            self.push(token)
        self._begin(self._run.keep_as_context())
        self._count = 0

    def push(self, token: int) -> str:
        """Add a token; returns the text that has become final."""
        self._count += 1
        self._ended = ""
        if token in self._left_out or token >= len(self._texts):
            return ""
        text = self._texts[token]
        if text is None:
            return self._begin(self._run.push(self._data[token], self._count))
        if self._bare is not None:
            text, self._bare = self._bare[token], None
        if self._run.active:
            return self._end_run(text)
        return self._begin(text) if self._strip else text

    def flush(self) -> str:
        """No token will follow; returns the text that was held back."""
        return self._end_run("")

    def tokens_behind(self, num_chars: int) -> int:
        """Counts back to the token whose byte completed the character before those."""
        in_run = num_chars - self._own
        if not self._ended or in_run < 0:
            return 0
        behind = self._ended[len(self._ended) - in_run :]
        size = len(behind) if REPLACEMENT in self._ended and len(self._ended) == len(self._ended_at) else None
        size = len(behind.encode()) if size is None else size
        return self._count - self._ended_at[len(self._ended_at) - size - 1]

    def _from_first_character(self, tail: Sequence[int]) -> Sequence[int]:
        """The tail without the rest of a character that it cuts through, which would make a whole run look broken."""
        for i, token in enumerate(tail):
            if token >= len(self._texts) or self._texts[token] is not None or not 0x80 <= self._data[token][0] < 0xC0:
                return tail[i:]
        return ()

    def _end_run(self, text: str) -> str:
        run, self._ended_at = self._run.end()
        self._ended = self._begin(run)
        text = self._begin(text)
        self._own = len(text)
        return self._ended + text

    def _begin(self, text: str) -> str:
        """Strip spaces while the text has not begun."""
        if not self._strip or not text:
            return text
        spaces = len(text) - len(text.lstrip(" "))
        removed = min(spaces, self._strip)
        self._strip = self._strip - removed if removed == len(text) else 0
        return text[removed:]


class _ByteRun:
    """Consecutive byte tokens, which are text only if all of them together are valid UTF-8."""

    __slots__ = ("_at", "_context", "_data", "_doomed", "_partial", "active")

    def __init__(self) -> None:
        self.active = False
        self._data = bytearray()
        self._at: list[int] = []  # which token each byte of the output came from
        self._partial = b""  # the unfinished character at the end of data
        self._context = 0  # bytes at the beginning that belong to the prompt
        self._doomed = False

    def push(self, byte: bytes, token_number: int) -> str:
        """Add a byte. Returns text only once the run cannot become valid: U+FFFD for each byte."""
        self.active = True
        if self._doomed:
            return REPLACEMENT
        self._data += byte
        self._at.append(token_number)
        self._partial += byte
        try:
            _, consumed = utf_8_decode(self._partial, "strict", False)
        except UnicodeDecodeError:
            self._doomed = True
            return REPLACEMENT * len(self._at)
        self._partial = self._partial[consumed:]
        return ""

    def end(self) -> tuple[str, list[int]]:
        """The held text, and for each of its bytes the number of the token it came from. The next run begins afresh."""
        data, at, held = self._data, self._at, not self._doomed and bool(self._at)
        broken = bool(self._partial)
        context = self._context
        self.active, self._doomed, self._partial, self._context = False, False, b"", 0
        self._data, self._at = bytearray(), []
        if not held:
            return "", []
        if broken:
            return REPLACEMENT * len(at), at
        return data.decode(), [at[0]] * context + at

    def keep_as_context(self) -> str:
        """All bytes so far were the prompt's; returns its text that was still held.

        Only an unfinished character, or being broken, still matters.
        """
        held = "" if self._doomed else self._data[: len(self._data) - len(self._partial)].decode()
        self._data = bytearray(self._partial)
        self._context = len(self._partial)
        self._at = []
        return held


class WindowedStream:
    """For decoders whose text depends on the neighbours in ways not known here: decodes a short window twice.

    The window holds the tokens of the last two pieces that came out, which is context enough for decoders that look at
    the token before (spaces between words, say).
    """

    _MAX_HELD = 16
    """Tokens that decode to unfinished text are held back, but never more than these."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool, prompt_tail: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window = list(prompt_tail)
        self._num_shown = len(self._window)
        self._shown = self._decode()

    def push(self, token: int) -> str:
        """Add a token; returns the text that has become final."""
        self._window.append(token)
        text = self._decode()
        held = len(self._window) - self._num_shown
        if text.endswith(REPLACEMENT) and held < self._MAX_HELD:
            return ""
        return self._show(text)

    def flush(self) -> str:
        """No token will follow; returns the text that was held back."""
        return self._show(self._decode())

    def tokens_behind(self, num_chars: int) -> int:
        """Not known for these decoders: the last token counts."""
        return 0

    def _show(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:
            del self._window[: self._num_shown]
            self._num_shown = len(self._window)
            self._shown = self._decode()
        return new

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=self._skip_special_tokens)


class TextStreams:
    """Makes the stream that fits a vocabulary.

    Args:
        table: What each token id stands for.
        tokenizer: Needed where the table does not stream by bytes.
    """

    def __init__(self, table: TokenTable, tokenizer: Tokenizer | None = None) -> None:
        if tokenizer is None and not table.streams_by_bytes:
            raise ValueError("this vocabulary's decoder needs the tokenizer itself")
        self.table = table
        self._tokenizer = tokenizer

    def new(self, *, skip_special_tokens: bool, prompt_tail: Sequence[int] = ()) -> TextStream:
        """A stream that goes on after the given tokens of the prompt."""
        kind = self.table.spec.kind
        if kind is DecoderKind.BYTE_LEVEL:
            return ByteLevelStream(self.table, skip_special_tokens=skip_special_tokens, prompt_tail=prompt_tail)
        if kind is DecoderKind.PLAIN:
            return PlainStream(self.table, skip_special_tokens=skip_special_tokens, prompt_tail=prompt_tail)
        assert self._tokenizer is not None  # __init__ made sure
        return WindowedStream(self._tokenizer, skip_special_tokens=skip_special_tokens, prompt_tail=prompt_tail)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of a whole sequence."""
        stream = self.new(skip_special_tokens=skip_special_tokens)
        return "".join([*map(stream.push, tokens), stream.flush()])


def unfinished(data: bytes) -> bytes:
    """The bytes at the end of `data` that begin a UTF-8 character and do not finish it."""
    for size in range(1, min(3, len(data)) + 1):
        if data[-size] >= 0xC0:
            tail = data[-size:]
            return tail if size < _character_length(tail[0]) and continues(tail, b"") else b""
        if data[-size] < 0x80:
            return b""
    return b""


def continues(pending: bytes, data: bytes) -> bool:
    """Whether `data` goes on with the unfinished character `pending` in a valid way."""
    try:
        utf_8_decode(pending + data[: _character_length(pending[0]) - len(pending)], "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def _character_length(first: int) -> int:
    return 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2
