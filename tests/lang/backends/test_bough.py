"""Programs on a server of ours: a gateway of its own, with fakes behind it that know each token by its character."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bough.client.errors import UnauthorizedError
from bough.common.errors import InvalidRequestError, NotFoundError, OverloadedError, UnavailableError
from bough.lang import AsyncState, ExpressionError, function, gen, select
from bough.lang.backends.base import ROOT, ChatMessages, Generation, Message, Piece, PlainText, Selection
from bough.lang.backends.bough import Bough, BoughSession
from bough.lang.errors import StateError
from bough.lang.output import Constraint
from bough.lang.sampling import Sampling
from tests.gateway.conftest import Deploy, Deployment, deploy

__all__ = ["deploy"]


@pytest.fixture
async def server(deploy: Deploy) -> Deployment:  # a fixture is asked for by its name
    deployment = await deploy()
    deployment.chain.backend.has_eos = True
    return deployment


@pytest.fixture
def backend(server: Deployment) -> Bough:
    return at(server)


@pytest.fixture
async def session(backend: Bough) -> AsyncIterator[BoughSession]:
    async with backend.open() as session:
        yield session


def at(server: Deployment, **options: str) -> Bough:
    return Bough(server.url, grpc_port=server.service.gateway.grpc_port, **options)  # type: ignore[arg-type]


def call(constraint: Constraint | None = None, **options: int | float | tuple[str, ...]) -> Generation:
    return Generation(name=None, sampling=Sampling(**{"max_tokens": 50, **options}), constraint=constraint)  # type: ignore[arg-type]


async def said(session: BoughSession, state: int, generation: Generation | None = None) -> str:
    pieces = [piece async for piece in session.generate(state, generation or call())]
    return "".join(piece.text for piece in pieces)


async def test_states_are_the_servers(server: Deployment, session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("root "))
    one, two = await session.fork(ROOT, 2)
    await session.extend(one, PlainText("a"))
    await session.extend(two, PlainText("b"))
    assert await said(session, two) == "echo of root b"
    await session.join(ROOT, [two, one], append=True)
    assert await said(session, ROOT, call(max_tokens=4)) == "echo"
    assert server.chain.scheduler.program.texts == {0: "root becho of root baecho"}


async def test_branches_that_are_joined_without_their_text_are_released(
    server: Deployment, session: BoughSession
) -> None:
    await session.extend(ROOT, PlainText("root"))
    children = await session.fork(ROOT, 2)
    await session.join(ROOT, children, append=False)
    await session.release(await session.fork(ROOT, 1))
    assert await said(session, ROOT, call(max_tokens=1)) == "e"
    assert server.chain.scheduler.program.texts == {0: "roote"}


async def test_a_state_goes_back_to_where_it_was(server: Deployment, session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("ab"))
    place = await session.position(ROOT)
    await session.extend(ROOT, PlainText("cd"))
    await said(session, ROOT)
    await session.rollback(ROOT, place)
    assert await said(session, ROOT) == "echo of ab"


async def test_pieces_tell_why_a_text_ended_and_what_it_took(session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("ab"))
    pieces = [piece async for piece in session.generate(ROOT, call(n=2, max_tokens=3, logprobs=1))]
    texts = ["".join(piece.text for piece in pieces if piece.index == index) for index in (0, 1)]
    assert texts == ["ech", "ech"]
    assert {piece.finish_reason for piece in pieces if piece.finish_reason} == {"length"}
    usage = pieces[-1].usage
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (2, 6)
    logprobs = [entry for piece in pieces if piece.index == 0 for entry in piece.logprobs]
    assert [(entry.token, entry.logprob) for entry in logprobs] == [("e", -0.25), ("c", -0.5), ("h", -0.75)]
    assert logprobs[0].top == (("e", -0.25),)


async def test_choices_are_scored(session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("is it"))
    yes, no = await session.select(ROOT, Selection(name=None, choices=("yes", "no"), unconditional=True))
    assert (yes.logprobs, no.logprobs) == ((-0.25, -0.5, -0.75), (-0.25, -0.5))
    assert yes.unconditional == yes.logprobs
    assert len(yes.tokens) == 3


async def test_a_chat_grows_by_its_messages(server: Deployment, session: BoughSession) -> None:
    server.chain.backend.reply = lambda prompt, sibling: "ho"
    hello, more = Message("user", "hi"), Message("user", "so?")
    await session.extend(ROOT, ChatMessages((hello,), opens_turn=True))
    (child,) = await session.fork(ROOT, 1)
    assert await said(session, child) == "ho"
    await session.extend(child, PlainText("!"))
    await session.extend(child, ChatMessages((more,), opens_turn=True))
    await session.join(ROOT, [child], append=True)
    await said(session, ROOT, call(max_tokens=1))
    sent = server.chain.tokenizer.chats
    assert '"ho!"' in sent[-1].messages_json
    assert sent[-1].num_known == 2 and sent[-1].known_is_open
    # The template of the fake writes no marks: the turn is told from the next message by a bar only.
    assert server.chain.scheduler.program.texts[0].startswith("hi")


async def test_sampling_and_constraints_reach_the_server(server: Deployment, session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("ab"))
    constraint = Constraint(kind="regex", source="[a-z]+")
    await said(session, ROOT, call(constraint, temperature=0.5, top_k=-1, seed=-1, stop=("z",), logprobs=2))
    (submission,) = server.chain.backend.submissions
    assert submission.sampling.grammar is not None
    assert (submission.sampling.temperature, submission.sampling.top_k) == (0.5, 0)
    assert (submission.sampling.seed, submission.sampling.top_logprobs) == ((1 << 64) - 1, 2)
    assert submission.text.stop == ("z",)


async def test_what_a_call_fails_with_is_raised_there(server: Deployment, session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("ab"))
    with pytest.raises(InvalidRequestError, match="temperature: got -1"):
        await said(session, ROOT, call(temperature=-1))
    with pytest.raises(ExpressionError, match="max_tokens: got -1"):
        await said(session, ROOT, call(max_tokens=-1))
    server.chain.backend.rejection = (8, "full", 2500)
    with pytest.raises(OverloadedError, match="full") as refused:
        await said(session, ROOT)
    assert refused.value.retry_after_s == 2.5


async def test_what_was_put_off_fails_the_call_that_waits(server: Deployment, session: BoughSession) -> None:
    await session.extend(ROOT, PlainText("x" * 300))
    with pytest.raises(InvalidRequestError, match="would have 300 tokens"):
        await said(session, ROOT)
    assert server.chain.backend.submissions == [] or all(run.cancelled for run in server.chain.backend.runs.values())


async def test_a_state_that_somebody_else_has_changed_is_an_error_of_the_state(
    server: Deployment, session: BoughSession
) -> None:
    await session.extend(ROOT, PlainText("ab"))
    await session.position(ROOT)
    server.chain.scheduler.program.states[0].append(97)
    await session.extend(ROOT, PlainText("cd"))
    with pytest.raises(StateError):
        await session.position(ROOT)


async def test_leaving_a_generation_cancels_it(server: Deployment, session: BoughSession) -> None:
    fakes = server.chain.backend
    fakes.automatic = False
    await session.extend(ROOT, PlainText("ab"))
    pieces = session.generate(ROOT, call())
    first: asyncio.Future[Piece] = asyncio.ensure_future(anext(pieces))
    await fakes.wait_for(lambda: bool(fakes.runs))
    fakes.advance(2)
    assert (await first).text
    await pieces.aclose()
    await fakes.wait_for(lambda: all(run.cancelled for run in fakes.runs.values()))
    assert server.chain.scheduler.program.texts == {0: "ab"}


async def test_leaving_a_session_ends_its_program(server: Deployment, backend: Bough) -> None:
    async with backend.open() as session:
        await session.extend(ROOT, PlainText("ab"))
        await session.position(ROOT)
        assert len(server.chain.scheduler.programs) == 1
    assert server.chain.scheduler.programs == {}


async def test_a_hundred_sessions_share_a_few_connections(server: Deployment, backend: Bough) -> None:
    async def one(number: int) -> str:
        async with backend.open() as session:
            await session.extend(ROOT, PlainText(f"{number}"))
            return await said(session, ROOT)

    assert await asyncio.gather(*map(one, range(100))) == [f"echo of {number}" for number in range(100)]
    assert server.chain.scheduler.programs == {}


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with Bough("bough://127.0.0.1:9", grpc_port=9).open() as session:
        await session.extend(ROOT, PlainText("ab"))
        with pytest.raises(UnavailableError):
            await said(session, ROOT)


async def test_the_key_is_sent(deploy: Deploy) -> None:
    server = await deploy(api_key="secret")
    async with at(server).open() as session:
        with pytest.raises(UnauthorizedError):
            await session.position(ROOT)
            await said(session, ROOT)
    async with at(server, api_key="secret").open() as session:
        await session.extend(ROOT, PlainText("ab"))
        assert await said(session, ROOT) == "echo of ab"


async def test_a_model_that_is_not_served_is_not_found(server: Deployment) -> None:
    async with at(server, model="gpt").open() as session:
        with pytest.raises(NotFoundError, match="gpt"):
            await said(session, ROOT)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "https://h:1", "bough://h", "bough://:1", "bough://h:x"])
def test_an_address_is_a_scheme_a_host_and_a_port(url: str) -> None:
    with pytest.raises(ExpressionError, match="accepted is bough://HOST:PORT"):
        Bough(url)


def test_the_port_of_grpc_is_the_one_behind_that_of_rest() -> None:
    assert Bough("bough://host:8000").address == "host:8001"
    assert Bough("http://[::1]:8000").address == "[::1]:8001"
    assert Bough("http://host:8000", grpc_port=9).address == "host:9"


async def test_a_program_of_the_language_runs_on_it(server: Deployment, backend: Bough) -> None:
    server.chain.backend.reply = lambda prompt, sibling: f"<{prompt[-1]}>"

    @function
    async def program(s: AsyncState) -> None:
        s += "root "
        async with s.fork(2) as group:
            group += lambda i: f"{i}"
            group += gen("found")
            group.join(append=True)
        s += select("chosen", ["yes", "no"])

    result = await program.arun(backend=backend)
    assert result["found"] == ["<0>", "<1>"]
    assert result.text().startswith("root 0<0>1<1>")
    assert result["chosen"] in ("yes", "no")
    assert server.chain.scheduler.programs == {}
