"""What a client may ask of a program, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass

from bough.common.errors import BoughError
from bough.common.model import ModelIdentity
from bough.gateway.domain import ChatPrompt, GenerationRequest, IdsPrompt, TextPrompt
from bough.gateway.receiver import Call, Piece

DEFAULT_LEASE_S = 60
MAX_LEASE_S = 3600
MAX_CHILDREN = 1024
MIN_CHOICES, MAX_CHOICES = 2, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Opens a program, or goes on with one."""

    model: str = ""
    program: str = ""
    """Name of a program to go on with; empty opens a new one."""
    lease_s: int | None = None
    cache_salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatExtension:
    """Messages for a state that holds the first ones of them."""

    chat: ChatPrompt
    num_known: int = 0
    is_open: bool = False
    """The last known message is the assistant's and the state ends within it."""
    open_turn: bool = False
    """Open the assistant's turn after the last message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Add to a state."""

    state: int
    content: TextPrompt | IdsPrompt | ChatExtension


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Have the model go on with a state."""

    state: int
    request: GenerationRequest
    """Without a prompt."""
    whole: bool = False
    """Tell of each continuation once, when it has ended."""
    pause_s: float = 0.0
    """Least time between two pieces of a continuation but the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Have the model score texts as continuations of a state."""

    state: int
    choices: tuple[str, ...]
    unconditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Branch a state."""

    state: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Add to a state the ends of branches."""

    state: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Cut a state off."""

    state: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give states up."""

    states: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End a call that is under way."""

    call: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End the program."""


StateAction = Extend | Generate | Select | Fork | Join | Rollback | Release
"""Works on states, in turn with all others that do so on one of them."""

Action = StateAction | Cancel | Close


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A program is open."""

    program: str
    lease_s: int
    identity: ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A state is changed, or a generation has ended."""

    state: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A piece of what the model produces."""

    call: Call
    generation: str
    """Its public name."""
    piece: Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely a text is, token by token."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    unconditional_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Scores of texts, in the order of the choices."""

    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The call has failed, and its state is as it was."""

    error: BoughError


Answer = Opened | Changed | Grown | Selected | Failed


def states_of(action: StateAction) -> tuple[int, ...]:
    """The states that an action works on or makes, each once."""
    match action:
        case Release():
            return tuple(dict.fromkeys(action.states))
        case Fork() | Join():
            return tuple(dict.fromkeys((action.state, *action.children)))
        case _:
            return (action.state,)
