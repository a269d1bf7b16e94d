"""What the tokenizer service does, without the wire: encode texts, render and encode chats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bough.common.errors import InvalidRequestError
from bough.tokenizer.chat import Chat
from bough.tokenizer.encoding import TextEncoder, read_tokenizer_config, special_tokens
from bough.tokenizer.template import ChatTemplates
from bough.tokenizer.workers import EncodeQueue, TimeLimitedPool

MAX_TEXTS = 1024
RENDER_LIMIT_S = 5.0
_RENDER_THREADS = 2


class ChatTokenizer:
    """Encodes texts and chats off the event loop.

    Args:
        encoder: The model's tokenizer.
        templates: Its chat templates.
        render_limit_s: How long a template may run.
    """

    def __init__(
        self, encoder: TextEncoder, templates: ChatTemplates, *, render_limit_s: float = RENDER_LIMIT_S
    ) -> None:
        self._encoder = encoder
        self._templates = templates
        self._queue = EncodeQueue(encoder)
        self._renderers = TimeLimitedPool(threads=_RENDER_THREADS, limit_s=render_limit_s)

    @classmethod
    def from_directory(cls, path: Path) -> ChatTokenizer:
        """Load a model directory; ModelError names the file that is missing or wrong."""
        config = read_tokenizer_config(path)
        templates = ChatTemplates.from_directory(path, config, special_tokens(path, config))
        return cls(TextEncoder.from_directory(path), templates)

    @property
    def has_chat_template(self) -> bool:
        """Whether chats can be rendered."""
        return bool(self._templates)

    @property
    def chat_template(self) -> str:
        """Source of all chat templates; empty where there is none."""
        return self._templates.source

    async def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each text.

        Raises:
            InvalidRequestError: Too many texts.
        """
        if len(texts) > MAX_TEXTS:
            raise InvalidRequestError(f"texts: {len(texts)} texts; at most {MAX_TEXTS} a call", field="texts")
        return await self._queue.encode(texts, add_special_tokens=add_special_tokens)

    async def encode_chat(self, chat: Chat) -> tuple[list[int], str]:
        """Token ids and text of a rendered chat.

        Raises:
            InvalidRequestError: The template refused the chat, failed on it, or took too long.
        """
        text = await self._renderers.run(lambda: self._templates.render(chat), what="messages: the chat template")
        # Templates write special tokens themselves; adding them again would double the first one.
        (ids,) = await self._queue.encode([text], add_special_tokens=False)
        return ids, text

    async def encode_added(self, chat: Chat, known: Chat) -> tuple[list[int], str, bool]:
        """What a chat adds to the one that it goes on from, as token ids and text.

        Only that is encoded, however long the chat has become. Where the template writes the known messages otherwise
        now (many leave out earlier thoughts), it is the whole chat, and True: it takes the place of what was there.

        Raises:
            InvalidRequestError: As of `encode_chat`.
        """

        def render() -> tuple[str, str]:
            return self._templates.render(chat), self._templates.render(known)

        text, before = await self._renderers.run(render, what="messages: the chat template")
        replaces = not text.startswith(before)
        added = text if replaces else text[len(before) :]
        (ids,) = await self._queue.encode([added], add_special_tokens=False)
        return ids, added, replaces

    def close(self) -> None:
        """Take no more work."""
        self._queue.close()
        self._renderers.close()
