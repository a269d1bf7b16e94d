"""The training code: shapes that match transformers, packing, schedule, and a loss that goes down."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bough.demo import model_dir
from bough.demo.train.data import Batch, BatchMaker, batches, document, tokenizer_texts
from bough.demo.train.export import export_checkpoint
from bough.demo.train.loop import TrainConfig, learning_rate_factor, train
from bough.demo.train.model import DemoModel, ModelConfig
from bough.demo.train.tokenizer import train_tokenizer, write_tokenizer

_SMALL = ModelConfig(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8)


@pytest.fixture(scope="module")
def small_maker() -> BatchMaker:
    return BatchMaker(model_dir() / "tokenizer.json", seed=1, num_batches=3, num_rows=2, length=512)


def test_the_training_model_computes_what_transformers_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(tokenizer_texts(0, 300), 600)
    model = DemoModel(ModelConfig(**{**_as_dict(_SMALL), "vocab_size": 600, "context_length": 64}))
    for parameter in model.parameters():
        parameter.data = (parameter + 0.1 * torch.randn_like(parameter)).bfloat16().float()
    export_checkpoint(model, tokenizer, tmp_path)
    oracle = AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32)
    tokens = torch.randint(0, 600, (2, 64))
    mask = torch.ones(64, 64, dtype=torch.bool).tril().expand(2, 1, 64, 64)
    loss = model(tokens, torch.ones(2, 64), mask)
    torch.testing.assert_close(loss, oracle(input_ids=tokens, labels=tokens).loss, rtol=1e-5, atol=1e-5)


def _as_dict(config: ModelConfig) -> dict[str, int]:
    return {name: getattr(config, name) for name in ModelConfig.__slots__ if name not in ("rope_theta", "norm_eps")}


def test_a_batch_depends_on_seed_and_number_only(small_maker: BatchMaker) -> None:
    first, again, other = small_maker[0], small_maker[0], small_maker[1]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()


def test_packed_documents_are_whole_and_their_first_token_is_no_target(small_maker: BatchMaker) -> None:
    tokens, weights, documents = small_maker[0]
    for row in range(len(tokens)):
        starts = [0, *((documents[row, 1:] != documents[row, :-1]).nonzero()[0] + 1)]
        assert (weights[row, starts] == 0).all()
        assert (weights[row, documents[row] == 0] == 0).all()
        assert weights[row].max() == 1000


def test_documents_do_not_see_one_another() -> None:
    torch.manual_seed(1)
    model = DemoModel(ModelConfig(**{**_as_dict(_SMALL), "context_length": 32}))
    documents = torch.tensor([[1] * 16 + [2] * 16])
    mask = (documents[:, None, :, None] == documents[:, None, None, :]) & torch.ones(32, 32, dtype=torch.bool).tril()
    tokens = torch.randint(0, 4096, (1, 32))
    changed = tokens.clone()
    changed[0, :16] = torch.randint(0, 4096, (16,))
    weights = torch.zeros(1, 32)
    weights[0, 17:] = 1
    assert torch.equal(model(tokens, weights, mask), model(changed, weights, mask))


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    config = TrainConfig(num_steps=100, warmup_share=0.1, decay_share=0.5)
    factors = [learning_rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:50] == [1.0] * 40
    assert factors[50:] == sorted(factors[50:], reverse=True)
    assert factors[-1] == pytest.approx(0.02)


def test_training_lowers_the_loss_and_saves_on_the_way(small_maker: BatchMaker) -> None:
    torch.manual_seed(2)
    model = DemoModel(ModelConfig(**{**_as_dict(_SMALL), "context_length": 512}))
    batch = next(batches(small_maker, 0, torch.device("cpu")))
    lines: list[str] = []
    saved: list[int] = []
    config = TrainConfig(num_steps=20, num_rows=2, log_every=5, save_every=10)
    train(model, [batch] * 20, config, save=saved.append, log=lines.append)
    losses = [float(line.split()[3]) for line in lines]
    assert losses[-1] < losses[0] - 1.0
    assert saved == [10, 20]


def test_a_loss_that_is_not_finite_stops_the_training(small_maker: BatchMaker) -> None:
    model = DemoModel(ModelConfig(**{**_as_dict(_SMALL), "context_length": 512}))
    made = next(batches(small_maker, 0, torch.device("cpu")))
    broken = Batch(tokens=made.tokens, weights=made.weights * float("nan"), documents=made.documents)
    config = TrainConfig(num_steps=1, num_rows=2, log_every=1)
    with pytest.raises(FloatingPointError, match="step 1"):
        train(model, [broken], config, save=lambda step: None, log=lambda line: None)


def test_the_tokenizer_training_repeats_and_has_the_wanted_size(tmp_path: Path) -> None:
    texts = list(tokenizer_texts(3, 200))
    first, again = train_tokenizer(texts, 500), train_tokenizer(texts, 500)
    assert first.to_str() == again.to_str()
    assert first.get_vocab_size() == 500
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    write_tokenizer(first, tmp_path, 128)
    assert {path.name for path in tmp_path.iterdir()} == {
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_document_weights_never_exceed_one() -> None:
    rng = random.Random(1)
    assert all(0.0 <= weight <= 1.0 for _ in range(100) for _, weight in document(rng))
