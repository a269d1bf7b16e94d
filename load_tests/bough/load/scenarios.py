"""What is asked of a server: endless streams of requests, the same for the same seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work number night point home water room mother area money story fact
month book eye job word business issue side kind head house friend father power hour game line end
"""
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request."""

    path: str
    body: dict[str, Any]
    label: str
    """Requests of one label are also summarised by themselves."""
    stop_after: int | None = None
    """The client goes away after so many chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What all scenarios share."""

    model: str
    stream: bool = True
    temperature: float = 0.0
    ignore_eos: bool = False
    prompt_tokens: int = 128
    output_tokens: int = 128
    vocab_size: int = 4000
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests are made.

    Closed loop: `concurrency` clients, each asks again once it was answered. Open loop, at `rate_per_s`: a request is
    made at its time, however many are under way: what users do, and what shows a server that falls behind.
    Gaps are exponential (a Poisson process) between groups of `burst` requests at once.
    """

    concurrency: int | None = None
    rate_per_s: float | None = None
    burst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A kind of load and how it arrives unless said otherwise."""

    summary: str
    requests: Callable[[Options], Iterator[Request]]
    arrivals: Arrivals
    num_requests: int | None = None
    duration_s: float | None = None


def _text(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=num_words))


def _common(options: Options, max_tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": options.model,
        "max_tokens": max_tokens,
        "temperature": options.temperature,
        "stream": options.stream,
    }
    if options.stream:
        body["stream_options"] = {"include_usage": True}
    if options.ignore_eos:
        body["ignore_eos"] = True
    return body


def _chat(options: Options, messages: list[dict[str, str]], label: str, max_tokens: int) -> Request:
    return Request(
        path="/v1/chat/completions", body={**_common(options, max_tokens), "messages": messages}, label=label
    )


def tokens(options: Options) -> Iterator[Request]:
    """Random token ids of one length in, one length out: what offline benchmarks do, through HTTP."""
    rng = random.Random(options.seed)
    while True:
        prompt = [rng.randrange(options.vocab_size // 10, options.vocab_size) for _ in range(options.prompt_tokens)]
        body = {**_common(options, options.output_tokens), "prompt": prompt, "ignore_eos": True}
        yield Request(path="/v1/completions", body=body, label="tokens")


def chat(options: Options) -> Iterator[Request]:
    """Conversations of one to four turns, each turn with all that was said before."""
    rng = random.Random(options.seed)
    while True:
        messages = [{"role": "system", "content": "You are a helpful assistant."}]
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": _text(rng, rng.randint(8, 60))})
            yield _chat(options, list(messages), "chat", rng.randint(options.output_tokens // 2, options.output_tokens))
            messages.append({"role": "assistant", "content": _text(rng, rng.randint(10, 40))})


def shared_prefix(options: Options) -> Iterator[Request]:
    """Eight long system prompts, and a short question of one's own below one of them."""
    rng = random.Random(options.seed)
    prefixes = [_text(rng, 900) for _ in range(8)]
    for number in itertools.count():
        messages = [
            {"role": "system", "content": prefixes[number % len(prefixes)]},
            {"role": "user", "content": _text(rng, 40)},
        ]
        yield _chat(options, messages, "first of its prefix" if number < 8 else "later", options.output_tokens // 2)


def long_beside_short(options: Options) -> Iterator[Request]:
    """A long prompt now and then beside short chats, whose tokens should not come later for it."""
    rng = random.Random(options.seed)
    for number in itertools.count():
        if number % 12 == 6:
            yield _chat(options, [{"role": "user", "content": _text(rng, 1500)}], "long", 16)
        else:
            question = [{"role": "user", "content": _text(rng, 20)}]
            yield _chat(options, question, "short", options.output_tokens)


def soak(options: Options) -> Iterator[Request]:
    """A bit of everything for a long time; one client in twenty goes away in the middle of its answer."""
    rng = random.Random(options.seed)
    kinds = [source(options) for source in (chat, chat, shared_prefix, long_beside_short)]
    while True:
        request = next(rng.choice(kinds))
        if options.stream and rng.random() < 0.05:
            yield Request(path=request.path, body=request.body, label="goes away", stop_after=rng.randint(1, 20))
        else:
            yield request


SCENARIOS: dict[str, Scenario] = {
    "tokens": Scenario(
        summary="token ids in and out, fixed lengths, 64 at a time",
        requests=tokens,
        arrivals=Arrivals(concurrency=64),
        num_requests=256,
    ),
    "chat": Scenario(
        summary="chats of one to four turns, 4 a second",
        requests=chat,
        arrivals=Arrivals(rate_per_s=4.0),
        num_requests=200,
    ),
    "shared-prefix": Scenario(
        summary="eight long system prompts shared by all, 16 at a time",
        requests=shared_prefix,
        arrivals=Arrivals(concurrency=16),
        num_requests=128,
    ),
    "long-beside-short": Scenario(
        summary="long prompts beside short chats, 8 at a time",
        requests=long_beside_short,
        arrivals=Arrivals(concurrency=8),
        num_requests=120,
    ),
    "burst": Scenario(
        summary="32 chats at once, every 4 seconds on average",
        requests=chat,
        arrivals=Arrivals(rate_per_s=8.0, burst=32),
        num_requests=256,
    ),
    "soak": Scenario(
        summary="a mixture for ten minutes, 2 a second, some clients go away",
        requests=soak,
        arrivals=Arrivals(rate_per_s=2.0),
        duration_s=600.0,
    ),
}
