"""vLLM's offline engine as a worker: `PYTHON vllm_offline.py MODEL_DIR OPTIONS`, in vLLM's own environment.

OPTIONS is a JSON object of arguments of `vllm.LLM`. Reads a JSON line per case from standard input and writes one
per case to standard output; see `bough.load.children`.
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
    # What the engine prints goes to standard error; standard output carries only answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    vllm: Any = importlib.import_module("vllm")
    began = time.perf_counter()
    engine = vllm.LLM(model=sys.argv[1], dtype="bfloat16", disable_log_stats=True, **json.loads(sys.argv[2]))
    print(json.dumps({"ready_s": time.perf_counter() - began, "version": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        sampling = [
            vllm.SamplingParams(temperature=case["temperature"], ignore_eos=True, max_tokens=count, detokenize=False)
            for count in case["output_tokens"]
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt in case["prompts"]]
        began = time.perf_counter()
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "output_tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
