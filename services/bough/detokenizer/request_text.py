"""The text of one request: its stream of tokens, its stop strings, its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bough.common.sampling import FinishReason, TextOptions
from bough.detokenizer.incremental import TextStreams
from bough.detokenizer.stops import StopFinder, StopMatch


@dataclass(slots=True)
class TextPiece:
    """What some tokens have brought."""

    text: str
    num_tokens: int
    """How many of the tokens count; fewer than were given, even below 0, where a stop string was complete before."""
    finish: FinishReason = FinishReason.NONE
    stop_string: str = ""


class RequestText:
    """Turns the tokens of a request into final text.

    Attributes:
        position: Tokens so far.
        offset: Characters of text so far.
        ended: Set when `push_one` came upon a stop string.
    """

    __slots__ = ("_finder", "_include_stop", "_stream", "ended", "offset", "position")

    def __init__(self, streams: TextStreams, options: TextOptions, prompt_tail: Sequence[int]) -> None:
        self._stream = streams.new(skip_special_tokens=options.skip_special_tokens, prompt_tail=prompt_tail)
        self._finder = StopFinder(options.stop, include_stop=options.include_stop) if options.stop else None
        self._include_stop = options.include_stop
        self.position = 0
        self.offset = 0
        self.ended: TextPiece | None = None

    def push_one(self, token: int) -> str:
        """Add one token that does not end the request: the common case. Sets `ended` where a stop string is found."""
        text = self._stream.push(token)
        if self._finder is not None and text:
            text, match = self._finder.push(text)
            if match is not None:
                taken = 1 - self._stream.tokens_behind(match.chars_behind)
                self.ended = TextPiece(text, taken, FinishReason.STOP_STRING, match.stop)
                self.position += taken - 1
        self.position += 1
        self.offset += len(text)
        return text

    def push(self, tokens: Sequence[int], finish: FinishReason = FinishReason.NONE) -> TextPiece:
        """Add tokens and perhaps the end of the request; nothing may be added after a piece with a finish reason.

        The last token of a request that ends with STOP is the stop token, of which the text is left out.
        """
        texts: list[str] = []
        match: StopMatch | None = None
        taken = 0
        silent = len(tokens) - 1 if finish is FinishReason.STOP and not self._include_stop else -1
        for i, token in enumerate(tokens):
            taken += 1
            if i != silent:
                match = self._add(self._stream.push(token), texts)
                if match is not None:
                    break
        if match is None and finish is not FinishReason.NONE:
            match = self._add(self._stream.flush(), texts)
            if match is None and self._finder is not None:
                texts.append(self._finder.flush())
            if match is not None and silent >= 0:
                taken -= 1  # the stream never saw the stop token
        text = "".join(texts)
        if match is not None:
            taken -= self._stream.tokens_behind(match.chars_behind)
            finish = FinishReason.STOP_STRING
        self.position += taken
        self.offset += len(text)
        return TextPiece(text, taken, finish, match.stop if match is not None else "")

    def _add(self, text: str, texts: list[str]) -> StopMatch | None:
        match = None
        if self._finder is not None and text:
            text, match = self._finder.push(text)
        texts.append(text)
        return match
