"""Chat templates: the model's own Jinja, sandboxed, with the names and filters that Hugging Face templates expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bough.common.errors import InvalidRequestError, ModelError
from bough.tokenizer.chat import Chat, Message, find_surrogate, flatten_contents

MAX_RENDERED_CHARS = 32 * 1024 * 1024
"""Bound of a rendered chat; far beyond any context, small enough to hold."""

_MAX_REPEATED = 1 << 20
_MAX_EXPONENT = 64

# Jinja trims trailing white space only where a template says so; the space at the end tells whether it did.
_OPEN_END = "\ue123open end\ue123 "


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with repetition and powers bounded: both make gigabytes out of a line of template."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse a product or power that would take unreasonable memory."""
        if operator == "**" and isinstance(right, int) and abs(right) > _MAX_EXPONENT:
            raise SecurityError(f"exponent {right} is beyond {_MAX_EXPONENT}")
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                is_repetition = isinstance(sequence, str | list | tuple) and isinstance(times, int)
                if is_repetition and len(sequence) * times > _MAX_REPEATED:
                    raise SecurityError(f"a sequence repeated {times} times is beyond {_MAX_REPEATED} items")
        return super().call_binop(context, operator, left, right)


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model said, for training; serving renders it as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str) -> None:
        """Compile; jinja2.TemplateSyntaxError where the source is wrong."""
        self.source = source
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        self._template: Template = environment.from_string(source)
        self.takes_content_parts = _iterates_content(environment.parse(source))
        """Whether the template walks through content given as a list of parts; others know only strings."""

    def render(self, chat: Chat, named_tokens: dict[str, str]) -> str:
        """Render a chat. Runs for as long as the template wants; the caller bounds the time.

        Raises:
            InvalidRequestError: The template refused the chat or failed on it.
        """
        messages = chat.messages if self.takes_content_parts else flatten_contents(chat.messages)
        if chat.continue_final_message:
            messages = [*messages[:-1], _with_open_end(messages[-1])]
        variables = {"documents": None, **named_tokens, **chat.variables}
        try:
            text = _bounded(
                self._template.generate(
                    messages=messages,
                    tools=chat.tools,
                    add_generation_prompt=chat.add_generation_prompt,
                    **variables,
                )
            )
        except InvalidRequestError:
            raise
        except TemplateError as error:
            raise InvalidRequestError(
                f"messages: the chat template refuses them: {error.message or type(error).__name__}", field="messages"
            ) from None
        except Exception as error:
            # The template is the model's, the input the client's: it is the input that does not fit.
            raise InvalidRequestError(
                f"messages: the chat template fails on them: {type(error).__name__}: {error}", field="messages"
            ) from None
        if chat.continue_final_message:
            text = _cut_at_open_end(text)
        _check_encodable(text, chat)
        return text


class ChatTemplates:
    """The templates of a model: usually one, sometimes another one for chats with tools."""

    def __init__(self, templates: dict[str, ChatTemplate], named_tokens: dict[str, str]) -> None:
        self._templates = templates
        self._named_tokens = named_tokens

    @classmethod
    def from_directory(cls, path: Path, config: dict[str, Any], named_tokens: dict[str, str]) -> ChatTemplates:
        """Load `chat_template.jinja` (and `additional_chat_templates/`), else what `tokenizer_config.json` holds.

        Raises:
            ModelError: A template does not compile; the message says where.
        """
        compiled = {}
        for name, source in _sources(path, config).items():
            try:
                compiled[name] = ChatTemplate(source)
            except TemplateSyntaxError as error:
                raise ModelError(
                    f"chat template {name!r} of {str(path)!r} is wrong at line {error.lineno}: {error.message}"
                ) from None
        return cls(compiled, named_tokens)

    def __bool__(self) -> bool:
        return bool(self._templates)

    @property
    def source(self) -> str:
        """The source of all templates, one after the other."""
        return "\n".join(template.source for template in self._templates.values())

    def render(self, chat: Chat) -> str:
        """Render a chat with the template meant for it; raises as `ChatTemplate.render`."""
        template = (self._templates.get("tool_use") if chat.tools else None) or self._templates.get("default")
        if template is None:
            raise InvalidRequestError("messages: this model has no chat template; send plain text instead")
        return template.render(chat, self._named_tokens)


def _sources(path: Path, config: dict[str, Any]) -> dict[str, str]:
    sources: dict[str, str] = {}
    configured = config.get("chat_template")
    if isinstance(configured, str):
        sources["default"] = configured
    elif isinstance(configured, list):
        sources = {entry["name"]: entry["template"] for entry in configured}
    elif isinstance(configured, dict):
        sources = dict(configured)
    file = path / "chat_template.jinja"
    if file.exists():
        # A file of its own replaces all that the configuration holds, as in transformers.
        sources = {"default": file.read_text(encoding="utf-8")}
        for extra in sorted((path / "additional_chat_templates").glob("*.jinja")):
            sources[extra.stem] = extra.read_text(encoding="utf-8")
    return sources


def _bounded(pieces: Iterator[str]) -> str:
    collected, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_RENDERED_CHARS:
            raise InvalidRequestError(f"messages: the rendered chat is longer than {MAX_RENDERED_CHARS} characters")
        collected.append(piece)
    return "".join(collected)


def _with_open_end(message: Message) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + _OPEN_END}
    if isinstance(content, list):
        for i in reversed(range(len(content))):
            part = content[i]
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                opened = {**part, "text": part["text"] + _OPEN_END}
                return {**message, "content": [*content[:i], opened, *content[i + 1 :]]}
    raise InvalidRequestError("continue_final_message: the final message has no text content to continue")


def _cut_at_open_end(text: str) -> str:
    end = text.rfind(_OPEN_END.rstrip())
    if end < 0:
        raise InvalidRequestError("continue_final_message: the chat template drops the final message's content")
    trimmed = not text.startswith(_OPEN_END, end)
    return text[:end].rstrip() if trimmed else text[:end]


def _check_encodable(text: str, chat: Chat) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        where = find_surrogate(chat.messages, "messages") or find_surrogate(chat.tools, "tools") or "the rendered chat"
        raise InvalidRequestError(f"{where}; text must be valid Unicode", field="messages") from None


def _iterates_content(template: nodes.Template) -> bool:
    for loop in template.find_all(nodes.For):
        source = loop.iter
        while isinstance(source, nodes.Filter) and source.node is not None:
            source = source.node
        if isinstance(source, nodes.Name) and source.name == "content":
            return True
        if isinstance(source, nodes.Getattr) and source.attr == "content":
            return True
        if isinstance(source, nodes.Getitem) and isinstance(source.arg, nodes.Const) and source.arg.value == "content":
            return True
    return False


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes HTML characters, which a model must not see."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
