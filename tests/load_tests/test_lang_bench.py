"""The benchmark of programs: both ways are the same work, what is least possible, and a run on a real server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from bough.demo import model_dir
from bough.lang import AsyncState, Fake, FakeCall, function, gen
from bough.load.lang_bench import HAND, PROGRAMS, LangBench, LangOptions, report
from bough.load.lang_floor import Trie, Watched
from bough.load.lang_plain import BY_HAND, Api
from bough.load.lang_programs import CASES, CHOICES, Case, Sizes, tasks

SIZES = Sizes(context=24, turn=6, turns=3, branches=3, tree_branches=2, depth=2, tokens=3)
RECORD = json.dumps(
    {
        "kind_of_the_residence": "boat",
        "number_of_people": 3,
        "country_of_the_residence": "flat",
        "year_of_the_visit": 7,
    }
)


def answer(prompt: str) -> str:
    """A word that depends on the prompt alone."""
    return f" w{hashlib.sha256(prompt.encode()).hexdigest()[:4]}"


def chosen(prompt: str) -> str:
    return CHOICES[hashlib.sha256(prompt.encode()).digest()[0] % len(CHOICES)]


class Server:
    """Answers OpenAI's API by these functions."""

    def __init__(self) -> None:
        self.prompts: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        is_chat = "messages" in body
        prompt = json.dumps(body["messages"]) if is_chat else body["prompt"]
        self.prompts.add(prompt)
        if "choice" in body:
            (text,) = body["choice"]
            entry = {"tokens": [text, "<end>"], "token_logprobs": [-0.1 if text == chosen(prompt) else -9.0, -50.0]}
            return self._say({"text": text, "logprobs": entry})
        text = RECORD if "response_format" in body else answer(prompt)
        choice: dict[str, Any] = {"message": {"content": text}} if is_chat else {"text": text}
        return self._say(*[choice] * body.get("n", 1))

    def _say(self, *choices: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json={"choices": choices})


def told(call: FakeCall) -> str:
    """The prompt of a call as the server above sees it."""
    if call.messages is None:
        return call.text
    return json.dumps([{"role": message.role, "content": message.content} for message in call.messages])


def respond(call: FakeCall) -> str:
    if call.choices:
        return chosen(told(call))
    return answer(told(call)) if call.constraint is None else RECORD


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_program_by_hand_has_the_prompts_and_the_answer_of_the_one_in_the_language(case: Case) -> None:
    (task,) = tasks(SIZES, "seed", 1)
    server, fake = Server(), Fake(respond)
    async with Api("http://server", "m", is_ours=True) as api:
        await api.client.aclose()
        api.client = httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://server")
        by_hand = await BY_HAND[case.name](api, task)
    result = await case.program.arun(task, backend=fake)
    assert result.value == by_hand
    assert {told(call) for call in fake.calls} == server.prompts


def test_tasks_of_a_round_share_what_they_are_to_share_and_rounds_nothing() -> None:
    (one, other), (later, _) = tasks(SIZES, "a", 2), tasks(SIZES, "b", 2)
    assert one.shared == other.shared != later.shared
    assert len({one.context, other.context, later.context, *one.turns, *later.turns}) == 3 + 2 * SIZES.turns
    assert tasks(SIZES, "a", 2) == [one, other]


def test_what_is_shared_counts_once_and_of_an_output_its_last_token_only() -> None:
    trie = Trie()
    root = trie.add(0, "abc")
    for branch in "xy":
        end = trie.add(root, branch)
        trie.need(end)
        out = trie.produce(end, "123")
        trie.need(trie.add(out, "z"))
    # abc; x, y; and in each branch the 3, which nothing has read, and z.
    assert trie.least == 3 + 2 + 2 * 2
    # The same again is there already; what was added and never gone on with is not needed.
    trie.need(trie.add(root, "x"))
    trie.add(root, "unused")
    assert trie.least == 9


async def test_states_of_a_program_are_followed_through_forks_joins_and_rollbacks() -> None:
    async def encode(text: str) -> list[int]:
        return list(text.encode())

    async def encode_chat(*_: object) -> list[int]:
        raise AssertionError("this is no chat")

    @function
    async def program(s: AsyncState) -> None:
        s += "root"
        mark = s.mark()
        s += "gone"
        s.rollback(mark)
        async with s.fork(2) as group:
            group += ["one", "two"]
            group += gen("x", max_tokens=1)
            group.join(append=True)
        s += "end" + gen("last", max_tokens=1)

    watched = Watched(Fake({"x": " word", "last": " word"}), encode, encode_chat)
    await program.arun(backend=watched)
    # root, one and two; then the second branch's end, of which nothing stood behind the first one's, with both outputs
    # (the output of the first one, and two with its own), and the end.
    assert watched.trie.least == len("root" + "one" + "two") + 1 + len("two") + 1 + len("end")
    assert watched.num_generations == 3


def free_ports() -> int:
    """The first of two ports that nobody has; the second one is for gRPC."""
    while True:
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            other.bind(("127.0.0.1", port + 1))
            return port


async def test_programs_are_measured_on_a_real_server(tmp_path: Path) -> None:
    said: list[str] = []
    options = LangOptions(
        model_dir=model_dir(),
        repeats=1,
        concurrency=2,
        programs=2,
        sizes=SIZES,
        states=30,
        port=free_ports(),
        log_dir=tmp_path,
    )
    measured = await LangBench(options, said.append).run()
    for name, case in measured["cases"].items():
        assert case["programs_per_s"][PROGRAMS] > 0 and case["programs_per_s"][HAND] > 0, name
        assert case["num_other_lengths"] == 0, name
        assert case["computed"] > 0.5 * case["least"] > 0, name
    assert measured["states"]["states"] == 30
    text = report(measured)
    assert all(f"| {case.name} " in text for case in CASES) and "30 states" in text
