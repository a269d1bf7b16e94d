"""Train the demo model and write its checkpoint: `python -m bough.demo.train --out FOLDER`."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from bough.demo import model_dir
from bough.demo.train.data import BatchMaker, batches, tokenizer_texts
from bough.demo.train.evaluate import evaluate
from bough.demo.train.export import export_checkpoint
from bough.demo.train.loop import TrainConfig, train
from bough.demo.train.model import DemoModel, ModelConfig
from bough.demo.train.tokenizer import train_tokenizer, write_tokenizer


def _arguments() -> argparse.Namespace:
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(prog="python -m bough.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo-model"), help="folder of the new checkpoint")
    parser.add_argument("--steps", type=int, default=defaults.num_steps, help="optimizer steps (default %(default)s)")
    parser.add_argument("--rows", type=int, default=defaults.num_rows, help="rows of 4096 tokens a step")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="corpus processes")
    parser.add_argument("--tokenizer", type=Path, help="use this tokenizer.json instead of training one")
    parser.add_argument("--tokenizer-documents", type=int, default=24_000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--eval-each", type=int, default=50, help="held-out chats a kind at the end; 0 for none")
    return parser.parse_args()


def _prepare_tokenizer(arguments: argparse.Namespace, shape: ModelConfig) -> Tokenizer:
    """Train or take the tokenizer and write its files to the checkpoint folder."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    template = model_dir() / "chat_template.jinja"
    if template.parent.resolve() != arguments.out.resolve():
        shutil.copy(template, arguments.out)
    if arguments.tokenizer:
        tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    else:
        texts = tokenizer_texts(arguments.seed, arguments.tokenizer_documents)
        tokenizer = train_tokenizer(texts, shape.vocab_size)
    write_tokenizer(tokenizer, arguments.out, shape.context_length)
    return tokenizer


def main() -> None:
    """Make the tokenizer, train, export, evaluate."""
    arguments = _arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    device, started = torch.device(arguments.device), time.monotonic()
    shape = ModelConfig()
    config = TrainConfig(num_steps=arguments.steps, num_rows=arguments.rows, seed=arguments.seed)
    tokenizer = _prepare_tokenizer(arguments, shape)
    print(f"tokenizer: {tokenizer.get_vocab_size()} entries, {time.monotonic() - started:.0f} s", flush=True)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    model = DemoModel(shape).to(device)
    maker = BatchMaker(
        arguments.out / "tokenizer.json",
        seed=config.seed,
        num_batches=config.num_steps,
        num_rows=config.num_rows,
        length=shape.context_length,
    )

    def save(step: int) -> None:
        export_checkpoint(model, tokenizer, arguments.out)

    data = batches(maker, arguments.workers, device)
    train(model, data, config, save=save, log=lambda line: print(line, flush=True))
    export_checkpoint(model, tokenizer, arguments.out)
    if arguments.eval_each:
        for dtype in (torch.bfloat16, torch.float32):
            print("\n".join(evaluate(arguments.out, dtype, device, num_each=arguments.eval_each)), flush=True)
    print(f"done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
