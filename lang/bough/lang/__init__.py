"""The language for programs of model calls: functions of a state that takes text and calls, branches and joins."""

from bough.lang.backends.base import Backend
from bough.lang.backends.bough import Bough
from bough.lang.backends.fake import Fake, FakeCall
from bough.lang.backends.openai import OpenAI
from bough.lang.choices import (
    ChoicesMethod,
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from bough.lang.defaults import set_default_backend
from bough.lang.errors import (
    ExpressionError,
    LangError,
    MissingAwaitError,
    OutputError,
    StateError,
    TraceError,
    UnknownVariableError,
    UnsupportedError,
)
from bough.lang.expressions import (
    Expression,
    assistant,
    assistant_begin,
    assistant_end,
    gen,
    image,
    select,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
)
from bough.lang.graph import Edge, Graph, Node
from bough.lang.program import AsyncFunction, Function, PlainFunction, function
from bough.lang.result import Result
from bough.lang.state import AsyncState, Group, State
from bough.lang.variables import Meta

__all__ = [
    "AsyncFunction",
    "AsyncState",
    "Backend",
    "Bough",
    "ChoicesMethod",
    "Edge",
    "Expression",
    "ExpressionError",
    "Fake",
    "FakeCall",
    "Function",
    "Graph",
    "Group",
    "LangError",
    "Meta",
    "MissingAwaitError",
    "Node",
    "OpenAI",
    "OutputError",
    "PlainFunction",
    "Result",
    "State",
    "StateError",
    "TraceError",
    "UnknownVariableError",
    "UnsupportedError",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "function",
    "gen",
    "greedy_token_selection",
    "image",
    "select",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
]
