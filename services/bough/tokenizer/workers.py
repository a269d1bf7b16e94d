"""Threads that keep the event loop free: a batching one for encoding, and some with a time limit for templates."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from bough.common.errors import InvalidRequestError
from bough.tokenizer.encoding import TextEncoder

T = TypeVar("T")

LARGE_CHARS = 64 * 1024
"""Calls with more text than this do not share a thread with small ones, which would wait for them."""


class _Interrupted(BaseException):
    """Raised inside a job that runs for too long; not an Exception, so that no template machinery swallows it."""


class _Job(Generic[T]):
    """One function run in a thread, which another thread may interrupt at its next Python instruction."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None
        self.started_at: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        """Looks after the job from the event loop."""

    def run(self) -> T:
        with self._lock:
            self._thread = threading.get_ident()
            self.started_at = time.monotonic()
        try:
            return self._function()
        finally:
            with self._lock:
                self._thread = None
            # An interrupt that was asked for and has not arrived yet must not hit this thread's next job.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)

    def interrupt(self) -> None:
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted))


class TimeLimitedPool:
    """Threads for pure Python functions of which some might never end.

    A thread cannot be killed, but CPython can raise an exception in it between two instructions, and a template is
    compiled to Python: that ends every endless loop.

    Args:
        threads: How many functions run at once.
        limit_s: How long one may run, from its start; waiting for a thread does not count.
    """

    def __init__(self, *, threads: int, limit_s: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="render")
        self._limit_s = limit_s

    async def run(self, function: Callable[[], T], *, what: str) -> T:
        """Run a function in a thread. InvalidRequestError naming `what` when it takes too long."""
        loop = asyncio.get_running_loop()
        job = _Job(function)

        def check() -> None:
            left_s = self._limit_s if job.started_at is None else job.started_at + self._limit_s - time.monotonic()
            if left_s <= 0:
                job.interrupt()
                left_s = 0.1  # once more, should the interrupt have hit a handler that went on
            job.timer = loop.call_later(left_s, check)

        job.timer = loop.call_later(self._limit_s, check)
        try:
            return await loop.run_in_executor(self._executor, job.run)
        except _Interrupted:
            raise InvalidRequestError(f"{what} took longer than {self._limit_s:g} s") from None
        finally:
            if job.timer is not None:
                job.timer.cancel()

    def close(self) -> None:
        """Take no more jobs; does not wait for those that run."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class EncodeQueue:
    """Encodes in a thread; small calls that arrive while it is busy go together as one batch."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._small = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="encode-large")
        self._waiting: dict[bool, list[tuple[Sequence[str], asyncio.Future[list[list[int]]]]]] = {True: [], False: []}
        self._draining: asyncio.Task[None] | None = None

    async def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each text."""
        loop = asyncio.get_running_loop()
        if sum(map(len, texts)) > LARGE_CHARS:
            return await loop.run_in_executor(self._large, lambda: self._encode_large(texts, add_special_tokens))
        future: asyncio.Future[list[list[int]]] = loop.create_future()
        self._waiting[add_special_tokens].append((texts, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await future

    def _encode_large(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        encodings = self._encoder.encode(texts, add_special_tokens=add_special_tokens)
        _return_memory()
        return encodings

    async def _drain(self) -> None:
        while any(self._waiting.values()):
            for add_special_tokens, calls in self._waiting.items():
                if calls:
                    self._waiting[add_special_tokens] = []
                    await self._encode_together(calls, add_special_tokens)
        # Reset here and not in a done callback: a call that comes in between would wait for ever.
        self._draining = None

    async def _encode_together(
        self, calls: list[tuple[Sequence[str], asyncio.Future[list[list[int]]]]], add_special_tokens: bool
    ) -> None:
        texts = [text for call, _ in calls for text in call]
        try:
            encodings = await asyncio.get_running_loop().run_in_executor(
                self._small, lambda: self._encoder.encode(texts, add_special_tokens=add_special_tokens)
            )
        except Exception as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for call, future in calls:
            if not future.done():
                future.set_result(encodings[start : start + len(call)])
            start += len(call)

    def close(self) -> None:
        """Take no more calls; does not wait for those that run."""
        self._small.shutdown(wait=False, cancel_futures=True)
        self._large.shutdown(wait=False, cancel_futures=True)


def _return_memory() -> None:
    """Give freed memory back to the system: a token takes 500 bytes while it is made, which glibc would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
