"""SGLang's offline engine as a worker: `PYTHON sglang_offline.py MODEL_DIR OPTIONS`, in SGLang's own environment.

OPTIONS is a JSON object of arguments of `sglang.Engine`. Reads a JSON line per case from standard input and writes one
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
    sglang: Any = importlib.import_module("sglang")
    began = time.perf_counter()
    engine = sglang.Engine(model_path=sys.argv[1], dtype="bfloat16", **json.loads(sys.argv[2]))
    ready = {"ready_s": time.perf_counter() - began, "version": sglang.__version__}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        sampling = [
            {"temperature": case["temperature"], "ignore_eos": True, "max_new_tokens": count}
            for count in case["output_tokens"]
        ]
        began = time.perf_counter()
        outputs = engine.generate(input_ids=case["prompts"], sampling_params=sampling)
        seconds = time.perf_counter() - began
        tokens = sum(output["meta_info"]["completion_tokens"] for output in outputs)
        print(json.dumps({"seconds": seconds, "output_tokens": tokens}), file=answers, flush=True)


# SGLang starts its processes by `spawn`, which runs this file again.
if __name__ == "__main__":
    main()
