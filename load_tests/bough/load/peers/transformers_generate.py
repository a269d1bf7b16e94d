"""transformers' batched `generate` as a worker: `PYTHON transformers_generate.py MODEL_DIR`.

Reads a JSON line per case from standard input and writes one per case to standard output; see `bough.load.children`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Load, say so, and answer cases until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    began = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
    ready_s = time.perf_counter() - began
    print(json.dumps({"ready_s": ready_s, "version": transformers.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        prompts = torch.tensor(case["prompts"])
        count = case["output_tokens"][0]
        began = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - began
        tokens = (output.shape[1] - prompts.shape[1]) * output.shape[0]
        print(json.dumps({"seconds": seconds, "output_tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
