"""The engine itself: batches of prompts and chats, plain and async, and a backend for programs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar, Unpack

from bough.client import AsyncClient, Chat, Completion
from bough.client.calls import ChatOptions, CompletionOptions, Messages
from bough.common.errors import InvalidRequestError
from bough.engine.errors import BatchError
from bough.engine.options import command_of, settings_of
from bough.engine.services import Running, Services
from bough.lang import Backend, Result
from bough.lang.backends.bough import Bough
from bough.lang.batch import gather_results

T = TypeVar("T")
Prompt: TypeAlias = str | Sequence[int]
"""A text, or token ids."""

_MOST_UNDER_WAY = 512
"""More than there are rows, so that one is never free while prompts wait."""


class Engine:
    """A model for this program alone: services on this machine that start with it and end with it.

    Making one begins the start, which takes seconds; what needs the services waits for it. As a context manager, plain
    or async, it waits at the beginning and closes at the end. One that nobody closes ends with the process.

    `generate` and `chat` are for plain code, in whatever thread; `agenerate` and `achat` are awaited, in whatever loop.

    Args:
        model: A Hugging Face model directory; the demo model where None.
        settings: Those of `bough serve` by name, as `max_context=4096`; environment and files have no say.

    Raises:
        ConfigError: A setting is unknown or cannot be used.
        ModelError: The model cannot be served.
    """

    def __init__(self, model: str | Path | None = None, **settings: Any) -> None:
        checked = settings_of(model, settings)
        self._under_way = min(_MOST_UNDER_WAY, checked.max_queue)
        self._services = Services(checked, command_of(settings, model))
        self._end = weakref.finalize(self, self._services.close)

    def __enter__(self) -> Self:
        try:
            self._running()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await self._arunning()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """End the services; calls under way fail. Returns when no process is left."""
        self._end()

    async def aclose(self) -> None:
        """As `close`."""
        await asyncio.to_thread(self.close)

    @property
    def url(self) -> str:
        """Where the REST API is, for who brings the `api_key`."""
        return self._running().url

    @property
    def api_key(self) -> str:
        """What calls of the REST API must bring: a port of this machine is open to all its users."""
        return self._running().api_key

    @property
    def backend(self) -> Backend:
        """What programs run on: `program.run(…, backend=engine.backend)`."""
        running = self._running()
        return Bough(running.url, grpc_port=running.grpc_port, api_key=running.api_key)

    def generate(
        self, prompts: Iterable[Prompt], *, progress: bool | None = None, **options: Unpack[CompletionOptions]
    ) -> list[Completion]:
        """What the model goes on with, behind each of some prompts.

        Args:
            prompts: Texts, or lists of token ids.
            progress: Show a bar; by default where standard error is a terminal.
            options: As completions of the API have them; 16 tokens each where `max_tokens` says nothing.

        Raises:
            BatchError: Some failed; it has the results of the others.
            EngineStartError: The services do not start.
            EngineClosedError: The engine is closed.
        """
        return self._wait(partial(self._generate, _listed(prompts, "prompts"), options, progress))

    async def agenerate(
        self, prompts: Iterable[Prompt], *, progress: bool | None = None, **options: Unpack[CompletionOptions]
    ) -> list[Completion]:
        """As `generate`."""
        return await self._await(partial(self._generate, _listed(prompts, "prompts"), options, progress))

    def chat(
        self, chats: Iterable[Messages], *, progress: bool | None = None, **options: Unpack[ChatOptions]
    ) -> list[Chat]:
        """What the model answers in each of some chats.

        Args:
            chats: Lists of messages as OpenAI's API has them, or texts: one turn of the user.
            progress: Show a bar; by default where standard error is a terminal.
            options: As chats of the API have them.

        Raises:
            BatchError: Some failed; it has the results of the others.
            EngineStartError: The services do not start.
            EngineClosedError: The engine is closed.
        """
        return self._wait(partial(self._chat, _listed(chats, "chats"), options, progress))

    async def achat(
        self, chats: Iterable[Messages], *, progress: bool | None = None, **options: Unpack[ChatOptions]
    ) -> list[Chat]:
        """As `chat`."""
        return await self._await(partial(self._chat, _listed(chats, "chats"), options, progress))

    # In the event loop of the services.

    async def _generate(
        self, prompts: Sequence[Prompt], options: CompletionOptions, progress: bool | None, client: AsyncClient
    ) -> list[Completion]:
        calls = [partial(client.complete, prompt, **options) for prompt in prompts]
        return await self._gathered("prompt", calls, progress)

    async def _chat(
        self, chats: Sequence[Messages], options: ChatOptions, progress: bool | None, client: AsyncClient
    ) -> list[Chat]:
        return await self._gathered("chat", [partial(client.chat, chat, **options) for chat in chats], progress)

    async def _gathered(self, what: str, calls: Sequence[Callable[[], Awaitable[T]]], progress: bool | None) -> list[T]:
        async def result(call: Callable[[], Awaitable[T]]) -> Result[T]:
            return Result(value=await call())

        results = await gather_results(
            [partial(result, call) for call in calls],
            concurrency=self._under_way,
            progress=progress,
            raise_errors=False,
            title=f"{what}s",
        )
        errors = {number: result.error for number, result in enumerate(results) if result.error is not None}
        if errors:
            raise BatchError(what, [None if result.error else result.value for result in results], errors)
        return [result.value for result in results]

    # In the caller's thread.

    def _running(self) -> Running:
        return self._services.running.result()

    async def _arunning(self) -> Running:
        # Shielded: who gives up waiting must not end the start for others.
        return await asyncio.shield(asyncio.wrap_future(self._services.running))

    def _wait(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        call = self._services.call(self._running(), work)
        try:
            return call.result()
        except concurrent.futures.CancelledError:
            raise self._services.closed() from None
        finally:
            call.cancel()  # of one that is done, nothing; else the caller was interrupted

    async def _await(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        call = self._services.call(await self._arunning(), work)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._services.is_closed and not (task is not None and task.cancelling()):
                raise self._services.closed() from None
            raise


def _listed(given: Iterable[T], name: str) -> list[T]:
    """What is given as a list. InvalidRequestError where it is one item and not several."""
    items = list(given)
    # One prompt may be a list too, but of token ids; one chat a list of messages.
    if isinstance(given, str) or any(isinstance(item, int | Mapping) for item in items):
        raise InvalidRequestError(f"{name}: got one of them, accepted is a list; write [{name[:-1]}]", field=name)
    return items
