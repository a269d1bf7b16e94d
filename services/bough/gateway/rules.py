"""What is accepted: every limit of a generation request, for REST and gRPC alike, and the filling in of defaults."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

from bough.common.errors import InvalidRequestError
from bough.common.ids import new_seed
from bough.common.model import GenerationDefaults, ModelIdentity
from bough.common.sampling import (
    MAX_SIBLINGS,
    MAX_STOP_STRINGS,
    MAX_TOP_LOGPROBS,
    TOP_K_ALL,
    Grammar,
    Reasoning,
    SamplingParams,
    TextOptions,
)
from bough.gateway.domain import GenerationRequest, IdsPrompt, SamplingOptions
from bough.gateway.errors import ContextLengthError, ModelNotFoundError, refuse

MAX_PROMPTS = 1024
"""Prompts of one call; the tokenizer takes as many texts at once."""

MAX_SEQUENCES = 4096
"""Prompts times continuations of one call."""

MAX_STOP_LENGTH = 1024
"""Characters of one stop string."""

MAX_STOP_TOKEN_IDS = 1024
GREEDY_BELOW = 1e-6
"""Temperatures below this are greedy."""

_SEED_RANGE = (-(1 << 63), (1 << 64) - 1)

ACCEPTED: dict[str, str] = {
    "n": f"an integer from 1 to {MAX_SIBLINGS}",
    "max_tokens": "an integer from 1",
    "min_tokens": "an integer from 0 to max_tokens",
    "temperature": "a finite number from 0",
    "top_p": "a number above 0, at most 1",
    "top_k": "an integer from 1, or 0 or -1 for all",
    "min_p": "a number from 0 to 1",
    "seed": "an integer of 64 bits",
    "presence_penalty": "a number from -2 to 2",
    "frequency_penalty": "a number from -2 to 2",
    "repetition_penalty": "a number above 0, at most 2",
    "stop": f"a string, or a list of at most {MAX_STOP_STRINGS} strings, of 1 to {MAX_STOP_LENGTH} characters each",
    "stop_token_ids": f"a list of at most {MAX_STOP_TOKEN_IDS} token ids",
    "logit_bias": "an object of token ids and numbers from -100 to 100",
    "thinking_budget": "an integer from 0",
    "max_thinking_tokens": "an integer from 0",
    "top_logprobs": f"an integer from 0 to {MAX_TOP_LOGPROBS}",
}
"""What is accepted for an option, in words; the checks below hold it."""

_NUMBERS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("max_tokens", lambda v: v >= 1),
    ("min_tokens", lambda v: v >= 0),
    ("temperature", lambda v: v >= 0),
    ("top_p", lambda v: 0 < v <= 1),
    ("top_k", lambda v: v >= -1),
    ("min_p", lambda v: 0 <= v <= 1),
    ("seed", lambda v: _SEED_RANGE[0] <= v <= _SEED_RANGE[1]),
    ("presence_penalty", lambda v: -2 <= v <= 2),
    ("frequency_penalty", lambda v: -2 <= v <= 2),
    ("repetition_penalty", lambda v: 0 < v <= 2),
    ("top_logprobs", lambda v: 0 <= v <= MAX_TOP_LOGPROBS),
)


def check(request: GenerationRequest, identity: ModelIdentity) -> None:
    """Refuse what can be refused before the prompt is encoded.

    Raises:
        InvalidRequestError: The message names field, value and what is accepted.
        ModelNotFoundError: The model is not served.
    """
    check_model(request.model, identity)
    name = _namer(request)
    if not 1 <= request.n <= MAX_SIBLINGS:
        raise refuse(name("n"), request.n, ACCEPTED["n"])
    if not 1 <= len(request.prompts) <= MAX_PROMPTS:
        raise InvalidRequestError(
            f"prompt: got {len(request.prompts)} prompts, accepted is 1 to {MAX_PROMPTS}", field="prompt"
        )
    if request.num_sequences > MAX_SEQUENCES:
        raise refuse(name("n"), request.n, f"at most {MAX_SEQUENCES} sequences a call (prompts times n)")
    _check_numbers(request.options, name)
    _check_stops(request.options, identity, name)
    if request.thinking_budget is not None and request.thinking_budget < 0:
        raise refuse(name("thinking_budget"), request.thinking_budget, ACCEPTED["thinking_budget"])
    for token, bias in request.options.logit_bias.items():
        if not 0 <= token < identity.vocab_size or not -100 <= bias <= 100:
            accepted = f"{ACCEPTED['logit_bias']} (ids from 0 to {identity.vocab_size - 1})"
            raise refuse(name("logit_bias"), {str(token): bias}, accepted)
    for prompt in request.prompts:
        if isinstance(prompt, IdsPrompt):
            check_ids(prompt.ids, identity, field="prompt")


def check_model(model: str, identity: ModelIdentity) -> None:
    """Refuse a model that is not served; an empty name takes the one there is."""
    if model and model != identity.model:
        raise ModelNotFoundError(f"model: {model[:100]!r} does not exist, served is {identity.model!r}", field="model")


def check_ids(ids: Iterable[int], identity: ModelIdentity, *, field: str) -> None:
    """Refuse token ids outside of the vocabulary."""
    for token in ids:
        if not 0 <= token < identity.vocab_size:
            raise refuse(field, token, f"token ids from 0 to {identity.vocab_size - 1}")


def check_length(request: GenerationRequest, num_prompt_tokens: int, identity: ModelIdentity) -> int:
    """Refuse what does not fit into the context.

    Returns:
        How many tokens may be produced.

    Raises:
        ContextLengthError: The message gives the numbers.
    """
    name, context, asked = _namer(request), identity.max_context, request.options.max_tokens
    field = name("prompt")
    if num_prompt_tokens == 0:
        raise InvalidRequestError(f"{field}: has no tokens, accepted is at least one", field=field)
    left = context - num_prompt_tokens
    if left < 1:
        raise ContextLengthError(
            f"{field}: has {num_prompt_tokens} tokens, accepted are at most {context - 1}: "
            f"the model's context holds {context} tokens of prompt and output together",
            field=field,
        )
    if asked is None:
        return left if request.default_max_tokens is None else min(left, request.default_max_tokens)
    if asked > left:
        raise ContextLengthError(
            f"{name('max_tokens')}: got {asked}, accepted are at most {left}: the prompt has {num_prompt_tokens} "
            f"tokens and the model's context holds {context} tokens of prompt and output together",
            field=name("max_tokens"),
        )
    return asked


def sampling_params(
    request: GenerationRequest,
    defaults: GenerationDefaults,
    *,
    max_tokens: int,
    grammar: Grammar | None,
    reasoning: Reasoning | None = None,
) -> SamplingParams:
    """The request's own values, else the model's, else neutral ones. A seed is drawn where there is none."""
    options = request.options
    if (options.min_tokens or 0) > max_tokens:
        name = _namer(request)
        raise refuse(name("min_tokens"), options.min_tokens, f"an integer from 0 to {max_tokens} (max_tokens)")
    temperature = _first(options.temperature, defaults.temperature, 1.0)
    top_k = int(_first(options.top_k, defaults.top_k, TOP_K_ALL))
    return SamplingParams(
        temperature=0.0 if temperature < GREEDY_BELOW else temperature,
        top_p=_first(options.top_p, defaults.top_p, 1.0),
        top_k=max(top_k, TOP_K_ALL),
        min_p=_first(options.min_p, defaults.min_p, 0.0),
        seed=new_seed() if options.seed is None else options.seed % (1 << 64),
        presence_penalty=options.presence_penalty or 0.0,
        frequency_penalty=options.frequency_penalty or 0.0,
        repetition_penalty=_first(options.repetition_penalty, defaults.repetition_penalty, 1.0),
        min_tokens=options.min_tokens or 0,
        max_tokens=max_tokens,
        stop_token_ids=tuple(dict.fromkeys(options.stop_token_ids)),
        ignore_eos=options.ignore_eos,
        logit_bias=tuple(sorted(options.logit_bias.items())),
        top_logprobs=options.top_logprobs,
        grammar=grammar,
        reasoning=reasoning,
    )


def text_options(options: SamplingOptions, *, special_tokens: bool = False) -> TextOptions:
    """How the text of a request is made; with `special_tokens` they are left in whatever the client wants."""
    return TextOptions(
        stop=tuple(dict.fromkeys(options.stop)),
        include_stop=options.include_stop,
        skip_special_tokens=options.skip_special_tokens and not special_tokens,
    )


def cache_namespace(salt: str) -> bytes:
    """The namespace of a salt: its hash, so that a tenant's secret stays in the gateway."""
    return hashlib.sha256(salt.encode()).digest() if salt else b""


def _namer(request: GenerationRequest) -> Callable[[str], str]:
    return lambda option: request.names.get(option, option)


def _first(given: float | None, default: float | None, neutral: float) -> float:
    if given is not None:
        return given
    return neutral if default is None else default


def _check_numbers(options: SamplingOptions, name: Callable[[str], str]) -> None:
    for option, is_accepted in _NUMBERS:
        value = getattr(options, option)
        if value is not None and not (math.isfinite(value) and is_accepted(value)):
            raise refuse(name(option), value, ACCEPTED[option])
    limit, least = options.max_tokens, options.min_tokens or 0
    if limit is not None and least > limit:
        raise refuse(name("min_tokens"), least, f"an integer from 0 to {limit} ({name('max_tokens')})")


def _check_stops(options: SamplingOptions, identity: ModelIdentity, name: Callable[[str], str]) -> None:
    if len(options.stop) > MAX_STOP_STRINGS:
        raise refuse(name("stop"), list(options.stop), ACCEPTED["stop"])
    for text in options.stop:
        if not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise refuse(name("stop"), text, ACCEPTED["stop"])
    if len(options.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise refuse(name("stop_token_ids"), list(options.stop_token_ids), ACCEPTED["stop_token_ids"])
    check_ids(options.stop_token_ids, identity, field=name("stop_token_ids"))
