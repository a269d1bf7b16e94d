"""One sequence's text read as thoughts, answer and tool calls: pieces in, deltas out."""

from __future__ import annotations

from dataclasses import dataclass

from bough.common.sampling import FinishReason
from bough.gateway.domain import ToolUse
from bough.gateway.parsers.base import CallDelta, Delta, ReasoningParser, ToolParser
from bough.gateway.parsers.spec import ReasoningFormat, ToolFormat
from bough.gateway.receiver import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the text of a call's sequences is read."""

    reasoning: ReasoningFormat | None = None
    in_thoughts: bool = False
    """The prompt has opened the thoughts."""
    end_ids: tuple[int, ...] = ()
    """Ids of the text that closes the thoughts."""
    tools: ToolFormat | None = None
    use: ToolUse | None = None
    """What may be called, where there are tools."""

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether there are markers that the text lacks without its special tokens."""
        return any(found is not None and found.keeps_special_tokens for found in (self.reasoning, self.tools))

    def reader(self) -> Reader:
        """A reader for one sequence."""
        return Reader(self)


class Reader:
    """Reads one sequence. What its deltas add up to does not depend on how the text came in pieces."""

    def __init__(self, reading: Reading) -> None:
        found, use = reading.tools, reading.use
        self._thoughts: ReasoningParser | None = None
        if reading.reasoning is not None:
            self._thoughts = reading.reasoning.make(reading.in_thoughts)
        self._tools: ToolParser | None = found.make(use.tools) if found is not None and use is not None else None
        self._parallel = use is None or use.parallel
        self._named = use is not None and use.named
        self._content_end = _BlankEnd()
        self._reasoning_end = _BlankEnd()
        self._has_thought = False
        self._calls = 0
        self._counter = _ThoughtCounter(reading.end_ids)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thoughts so far, their markers included."""
        return self._counter.tokens

    def read(self, piece: Piece) -> Delta:
        """What a piece brings; with the last one, all that was kept back too."""
        thought = self._think(piece)
        said = thought
        if self._tools is not None:
            said = self._tools.feed(thought.content) if thought.content else Delta()
        content, calls = said.content, said.calls
        if piece.finish and self._tools is not None:
            rest = self._tools.finish()
            content, calls = content + rest.content, calls + rest.calls
        if not self._parallel:
            calls = tuple(call for call in calls if call.index == 0)
        self._calls += sum(call.name is not None for call in calls)
        if self._tools is not None:
            content = self._content_end.feed(content)
            if piece.finish and not self._calls:
                content += self._content_end.held
        return Delta(content=content, reasoning=thought.reasoning and self._trimmed(thought.reasoning), calls=calls)

    def finish_name(self, finish: FinishReason) -> str | None:
        """A finish reason as OpenAI's API names it, which depends on whether there were calls."""
        if finish is FinishReason.NONE:
            return None
        if finish is FinishReason.LENGTH:
            return "length"
        return "tool_calls" if self._calls and not self._named else "stop"

    def _think(self, piece: Piece) -> Delta:
        if self._thoughts is None:
            return Delta(content=piece.text)
        delta = self._thoughts.feed(piece.text)
        if piece.finish:
            rest = self._thoughts.finish()
            delta = Delta(content=delta.content + rest.content, reasoning=delta.reasoning + rest.reasoning)
        self._counter.saw(piece.tokens, delta)
        return delta

    def _trimmed(self, reasoning: str) -> str:
        """Thoughts without the line breaks that keep them off their markers."""
        text = self._reasoning_end.feed(reasoning)
        if not self._has_thought:
            text = text.lstrip()
        self._has_thought = self._has_thought or bool(text)
        return text


class _BlankEnd:
    """Keeps white space back until there is text behind it."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = ""

    def feed(self, text: str) -> str:
        """The text, with what was held before it, up to its last character that is no white space."""
        text = self.held + text
        kept = text.rstrip()
        self.held = text[len(kept) :]
        return kept


class _ThoughtCounter:
    """Counts the tokens up to the end of the thoughts."""

    def __init__(self, end_ids: tuple[int, ...]) -> None:
        # Most vocabularies have one token for it, which tells the place exactly.
        self._end = end_ids[0] if len(end_ids) == 1 else None
        self._tokens = 0
        self._over = False
        self._any = False

    @property
    def tokens(self) -> int:
        """Tokens so far; none where the model has not thought."""
        return self._tokens if self._any else 0

    def saw(self, tokens: list[int], delta: Delta) -> None:
        """A piece was read."""
        self._any = self._any or bool(delta.reasoning)
        if self._over:
            return
        if self._end is not None and self._end in tokens:
            self._tokens += tokens.index(self._end) + 1
            self._over = True
        elif delta.content:
            # Several tokens at once without a mark among them: shared out by the text that they brought.
            share = len(delta.reasoning) / (len(delta.reasoning) + len(delta.content))
            self._tokens += round(len(tokens) * share)
            self._over = True
        else:
            self._tokens += len(tokens)


def call_deltas(calls: tuple[CallDelta, ...]) -> list[CallDelta]:
    """The same, so that the name of a call comes alone before its arguments, as in OpenAI's streams."""
    if all(call.name is None for call in calls):
        return [*calls]
    apart: list[CallDelta] = []
    for call in calls:
        if call.name is not None:
            apart.append(CallDelta(call.index, call.name))
        if call.arguments:
            apart.append(CallDelta(call.index, None, call.arguments))
    return apart
