"""Random programs of the language on a server that keeps their states, beside the same by plain completions."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bough.common.model import read_model_files
from bough.demo import model_dir
from bough.lang import Result, function
from bough.lang.backends.bough import Bough
from tests.integration.plain_tokens import PlainTokens
from tests.integration.server import Server
from tests.lang.reference import AddText, DoTurn, Op, Outcome, build_async, chat_programs, plain_programs

PLAIN = plain_programs().map(lambda ops: (AddText("Once upon a time"), *ops))
CHATS = chat_programs().map(lambda ops: (DoTurn("user", (AddText("What is 7 plus 5?"),)), *ops))


def outcome_of(result: Result[None]) -> Outcome:
    return Outcome({name: result[name] for name in result}, result.text(), result.messages())


@given(st.one_of(PLAIN, CHATS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_programs_give_what_plain_completions_give(server: Server, ops: tuple[Op, ...]) -> None:
    program = function(build_async)
    plain = PlainTokens(server.url, eos=read_model_files(model_dir()).eos_token_ids)
    kept = Bough(server.url, grpc_port=server.grpc_port)
    assert outcome_of(program.run(ops, backend=kept, temperature=0.0)) == outcome_of(
        program.run(ops, backend=plain, temperature=0.0)
    )
    assert server.metrics().total("bough_scheduler_programs") == 0
