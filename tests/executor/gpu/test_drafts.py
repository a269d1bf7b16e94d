"""Drafts on an interpreted GPU: the outputs are those of the engine on the CPU that has none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xgrammar

from bough.common.sampling import Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.engine import Engine
from bough.executor.forced_text import ForcedText
from bough.executor.grammars import GrammarMatcher
from bough.executor.orders import Admission
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import check_nothing_is_lost
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, random_tokens
from tests.helpers.interpreted_gpu import InterpretedGpu, interpreted_gpu, make_interpreted_engine
from tests.helpers.tokenizer_files import byte_level

EOS = 2
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "first_name": {"type": "string", "maxLength": 3},
            "kind": {"enum": ["flat", "house"]},
        },
        "required": ["first_name", "kind"],
        "additionalProperties": False,
    }
)
GRAMMAR = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text=SCHEMA)
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_logprobs": 2},
    {"temperature": 1.2, "top_p": 0.9, "logit_bias": ((40, 3.0), (90, -100.0))},
    {"temperature": 1.0, "frequency_penalty": 0.5},
    {"temperature": 0.0, "min_tokens": 5, "max_tokens": 19},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cpu(model_dir: Path) -> ModelRunner:
    return load_runner(model_dir)


@pytest.fixture(scope="module")
def device() -> Iterator[InterpretedGpu]:
    with interpreted_gpu() as gpu:
        yield gpu


@pytest.fixture(scope="module")
def engine(model_dir: Path, device: InterpretedGpu) -> Engine:
    return make_interpreted_engine(model_dir, eos=[EOS], max_rows=7, token_budget=48)


class Maker:
    """Requests with a grammar, and one without."""

    def __init__(self, folder: Path) -> None:
        byte_level().save(str(folder / "tokenizer.json"))
        info = xgrammar_tokenizer_info(read_vocabulary(folder), vocab_size=512, stop_token_ids=[EOS])
        self._compiled = xgrammar.GrammarCompiler(info).compile_json_schema(SCHEMA, any_whitespace=False)
        self._guesses = ForcedText(folder, info.decoded_vocab, adds_prefix_space=False)

    def __call__(self, seed: int, *, drafts: bool) -> list[Admission]:
        constrained = [
            admission(
                number,
                random_tokens(6 * number, seed + number),
                seed=seed + number,
                matcher=GrammarMatcher(self._compiled, self._guesses if drafts else None),
                grammar=GRAMMAR,
                **{"max_tokens": 40, **sampling},
            )
            for number, sampling in enumerate(SAMPLINGS, 1)
        ]
        return [*constrained, admission(9, random_tokens(60, seed), max_tokens=15)]


@pytest.fixture(scope="module")
def requests_of(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("lags", [False, True], ids=["at once", "when waited for"])
def test_outputs_are_those_of_the_cpu_without_drafts(
    cpu: ModelRunner, engine: Engine, device: InterpretedGpu, requests_of: Maker, lags: bool
) -> None:
    seed = 300 + 50 * lags
    expected = EngineDriver(make_engine(cpu, eos=[EOS]))
    expected.admit(*requests_of(seed, drafts=False))
    expected.run()
    device.lags = lags
    driver = EngineDriver(engine)
    driver.admit(*requests_of(seed, drafts=True))
    at_once = 0
    while (report := driver.step()) is not None or engine.is_under_way:
        at_once += sum(count - 1 for count in report.tokens.counts) if report is not None else 0
    device.lags = False
    assert driver.tokens == expected.tokens and driver.finish == expected.finish and not driver.failures
    assert driver.logprobs.keys() == expected.logprobs.keys() == {2}
    for one, other in zip(driver.logprobs[2], expected.logprobs[2], strict=True):
        assert (one.rank, one.top_ids) == (other.rank, other.top_ids)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert at_once > 20
    check_nothing_is_lost(engine)
