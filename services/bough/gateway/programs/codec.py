"""Programs in protobuf: what clients ask and are told, and what the scheduler does."""

from __future__ import annotations

from bough.common.codec import encode_identity
from bough.common.errors import OverloadedError, code_number
from bough.gateway.codec import decode_generate, encode_piece
from bough.gateway.domain import ChatPrompt, IdsPrompt, TextPrompt
from bough.gateway.errors import refuse
from bough.gateway.programs.actions import (
    Action,
    Answer,
    Cancel,
    Changed,
    ChatExtension,
    Close,
    Extend,
    Failed,
    Fork,
    Generate,
    Grown,
    Join,
    Opened,
    Opening,
    Release,
    Rollback,
    Select,
    Selected,
)
from bough.gateway.programs.orders import (
    CutOrder,
    ExtendOrder,
    ForkOrder,
    JoinOrder,
    LookOrder,
    Order,
    OrderAnswer,
    ProgramChange,
    ReleaseOrder,
    StateEnd,
)
from bough.rpc.v1 import program_pb2 as pb
from bough.rpc.v1 import scheduler_pb2

_EMPTY_PROMPT = IdsPrompt(())


def decode_opening(message: pb.ProgramRequest) -> Opening:
    """The first message of a stream. InvalidRequestError where it opens nothing."""
    if message.WhichOneof("action") != "open":
        raise refuse("action", message.WhichOneof("action"), "open, in the first message of a stream")
    opening = message.open
    return Opening(
        model=opening.model,
        program=opening.program,
        lease_s=opening.lease_s if opening.HasField("lease_s") else None,
        cache_salt=opening.cache_salt,
    )


def decode_action(message: pb.ProgramRequest) -> Action:
    """A call. InvalidRequestError where there is none that is possible here."""
    match message.WhichOneof("action"):
        case "extend":
            return _decode_extend(message.extend)
        case "generate":
            return _decode_generate(message.generate)
        case "select":
            select = message.select
            return Select(state=select.state, choices=tuple(select.choices), unconditional=select.unconditional)
        case "fork":
            return Fork(state=message.fork.state, children=tuple(message.fork.children))
        case "join":
            return Join(state=message.join.state, children=tuple(message.join.children))
        case "rollback":
            return Rollback(state=message.rollback.state, length=message.rollback.length)
        case "release":
            return Release(states=tuple(message.release.states))
        case "cancel":
            return Cancel(call=message.cancel)
        case "close":
            return Close()
        case other:
            raise refuse("action", other, "one action, and open only in the first message of a stream")


def _decode_extend(message: pb.ExtendState) -> Extend:
    match message.WhichOneof("content"):
        case "text":
            return Extend(state=message.state, content=TextPrompt(message.text))
        case "token_ids":
            return Extend(state=message.state, content=IdsPrompt(tuple(message.token_ids.ids)))
        case "chat":
            return Extend(state=message.state, content=_decode_chat(message.chat))
        case other:
            raise refuse("content", other, "one of text, token_ids and chat")


def _decode_chat(message: pb.ChatExtension) -> ChatExtension:
    chat = ChatPrompt(
        messages_json=message.chat.messages_json,
        tools_json=message.chat.tools_json,
        template_kwargs_json=message.chat.template_kwargs_json,
    )
    return ChatExtension(chat=chat, num_known=message.num_known, is_open=message.is_open, open_turn=message.open_turn)


def _decode_generate(message: pb.GenerateState) -> Generate:
    options = message.options
    if (given := options.WhichOneof("prompt")) is not None:
        raise refuse(f"options.{given}", getattr(options, given), "nothing: the state is the prompt")
    for name in ("model", "cache_salt"):
        if value := getattr(options, name):
            raise refuse(f"options.{name}", value, "nothing: the program has it")
    return Generate(
        state=message.state,
        request=decode_generate(options, _EMPTY_PROMPT),
        whole=message.whole,
        pause_s=message.pause_ms / 1000,
    )


def encode_answer(call: int, answer: Answer) -> pb.ProgramResponse:
    """An answer to the call with this number, to the wire."""
    response = pb.ProgramResponse(call=call)
    match answer:
        case Opened():
            response.opened.program, response.opened.lease_s = answer.program, answer.lease_s
            response.opened.identity.CopyFrom(encode_identity(answer.identity))
        case Changed():
            response.changed.SetInParent()
            response.changed.state, response.changed.length = answer.state, answer.length
        case Grown():
            response.piece.CopyFrom(encode_piece(answer.call, answer.generation, answer.piece))
        case Selected():
            _encode_scores(response.selected, answer)
        case Failed():
            error = answer.error
            response.failed.code, response.failed.message = code_number(error), str(error)
            if isinstance(error, OverloadedError):
                response.failed.retry_after_ms = int(error.retry_after_s * 1000)
    return response


def _encode_scores(message: pb.StateSelected, answer: Selected) -> None:
    message.SetInParent()
    for score in answer.scores:
        message.counts.append(len(score.token_ids))
        message.token_ids.extend(score.token_ids)
        message.logprobs.extend(score.logprobs)
        message.unconditional_logprobs.extend(score.unconditional_logprobs or ())


def encode_change(change: ProgramChange) -> scheduler_pb2.ChangeProgramRequest:
    """Orders to the wire."""
    return scheduler_pb2.ChangeProgramRequest(
        program=change.program,
        lease_s=change.lease_s,
        cache_namespace=change.cache_namespace,
        orders=[_encode_order(order) for order in change.orders],
        close=change.close,
    )


def _encode_order(order: Order) -> scheduler_pb2.StateOrder:
    message = scheduler_pb2.StateOrder
    match order:
        case ExtendOrder():
            extend = scheduler_pb2.ExtendOrder(state=order.state, tokens=order.tokens, at_length=order.at_length)
            return message(extend=extend)
        case ForkOrder():
            return message(fork=scheduler_pb2.ForkOrder(state=order.state, children=order.children))
        case JoinOrder():
            return message(join=scheduler_pb2.JoinOrder(state=order.state, children=order.children))
        case CutOrder():
            return message(cut=scheduler_pb2.CutOrder(state=order.state, length=order.length))
        case ReleaseOrder():
            return message(release=scheduler_pb2.ReleaseOrder(states=order.states))
        case LookOrder():
            return message(look=scheduler_pb2.LookOrder(state=order.state))


def decode_answers(message: scheduler_pb2.ChangeProgramResponse) -> list[OrderAnswer]:
    """What became of orders."""
    return [
        OrderAnswer(StateEnd(answer.length, tuple(answer.tail)), answer.code, answer.message)
        for answer in message.answers
    ]
