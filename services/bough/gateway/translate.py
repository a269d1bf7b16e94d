"""REST bodies to generation requests."""

from __future__ import annotations

from typing import Any

from bough.common.sampling import MAX_TOP_LOGPROBS
from bough.gateway.constraints import body_constraint
from bough.gateway.domain import GenerationRequest, IdsPrompt, Prompt, SamplingOptions, TextPrompt
from bough.gateway.errors import refuse
from bough.gateway.messages import chat_prompt, thinking_budget
from bough.gateway.schema import ChatBody, CompletionBody, CompletionOptions, GenerationBody, logit_bias_ids
from bough.gateway.tools import tool_use

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default of completions; chats go on to the end of the context."""

_PROMPT = "a string, a list of strings, a list of token ids, or a list of lists of token ids"


def completion_request(body: CompletionBody) -> GenerationRequest:
    """A completion. InvalidRequestError where the body contradicts itself."""
    n = 1 if body.n is None else body.n
    if body.best_of is not None and body.best_of != n:
        raise refuse("best_of", body.best_of, f"the value of n ({n}): ranking candidates is not supported")
    if body.echo and body.logprobs is not None:
        raise refuse("logprobs", body.logprobs, "null together with echo: prompt tokens have no log probabilities")
    return completion_of(body, completion_prompts(body.prompt))


def completion_of(body: CompletionOptions, prompts: tuple[Prompt, ...]) -> GenerationRequest:
    """A completion of prompts."""
    if body.logprobs is not None and not 0 <= body.logprobs <= MAX_TOP_LOGPROBS:
        raise refuse("logprobs", body.logprobs, f"an integer from 0 to {MAX_TOP_LOGPROBS}")
    return GenerationRequest(
        prompts=prompts,
        model=body.model or "",
        n=1 if body.n is None else body.n,
        options=_options(body, max_tokens=body.max_tokens, top_logprobs=body.logprobs),
        constraint=body_constraint(body),
        cache_salt=body.cache_salt or "",
        default_max_tokens=COMPLETION_MAX_TOKENS,
        names={"include_stop": "include_stop_str_in_output", "top_logprobs": "logprobs"},
    )


def chat_request(body: ChatBody) -> GenerationRequest:
    """A chat completion. InvalidRequestError where the body contradicts itself."""
    if body.top_logprobs is not None and not body.logprobs:
        raise refuse("top_logprobs", body.top_logprobs, "null without logprobs: true")
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        raise refuse("max_tokens", older, f"null, or the value of max_completion_tokens ({newer})")
    names = {"include_stop": "include_stop_str_in_output", "prompt": "messages"}
    if newer is not None:
        names["max_tokens"] = "max_completion_tokens"
    if body.max_thinking_tokens is not None:
        names["thinking_budget"] = "max_thinking_tokens"
    constraint = body_constraint(body)
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return GenerationRequest(
        prompts=(chat_prompt(body),),
        model=body.model or "",
        n=1 if body.n is None else body.n,
        options=_options(body, max_tokens=older if newer is None else newer, top_logprobs=top_logprobs),
        constraint=constraint,
        tools=tool_use(body, constraint),
        separate_reasoning=body.separate_reasoning is not False,
        thinking_budget=thinking_budget(body),
        cache_salt=body.cache_salt or "",
        names=names,
    )


def completion_prompts(prompt: Any) -> tuple[Prompt, ...]:
    """The prompts in any of the four forms of OpenAI's API."""
    if isinstance(prompt, str):
        return (TextPrompt(prompt),)
    if not isinstance(prompt, list) or not prompt:
        raise refuse("prompt", prompt, _PROMPT)
    if _is_ids(prompt):
        return (IdsPrompt(tuple(prompt)),)
    if all(isinstance(part, str) for part in prompt):
        return tuple(TextPrompt(part) for part in prompt)
    if all(isinstance(part, list) and part and _is_ids(part) for part in prompt):
        return tuple(IdsPrompt(tuple(part)) for part in prompt)
    raise refuse("prompt", prompt, _PROMPT)


def _is_ids(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)  # bool is a subclass of int


def _options(body: GenerationBody, *, max_tokens: int | None, top_logprobs: int | None) -> SamplingOptions:
    stop = body.stop if body.stop is not None else ()
    return SamplingOptions(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        logit_bias=logit_bias_ids(body.logit_bias or {}),
        top_logprobs=top_logprobs,
    )
