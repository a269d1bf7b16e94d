"""`bough bench`: load on any OpenAI-compatible server, the speed of Bough's parts, comparison with others."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bough.cli.flags import Parser
from bough.cli.main import EXIT_FAILURE, EXIT_USAGE
from bough.cli.models import with_model
from bough.common.config import Settings
from bough.common.errors import ModelError

_EPILOG = """WHAT is one of
  all                 everything below `docs/performance.md`, with the peers that are named
  executor            one executor, driven directly: 1, 16, 64, 256 rows and prefill
  offline             one executor, driven directly: decode steps, mixed lengths, prefill, shared
                      prefixes, each beside what one H200 could reach at most
  http                closed loops on the server at --base-url, 512 tokens in and 256 out, from
                      several client processes; and chats beside long prompts
  gpu                 offline and http, for each of --models and each of --engines
  grammar             structured output on servers started for it: with jump-forward and without, free
                      text beside it, new schemas; and vLLM's from --peers-dir
  lang                programs in the language, and the same by hand over OpenAI's API, on a server
                      started for it; and on vLLM's from --peers-dir or at --peer-url
  generator           what this load generator itself can take
  tokens, chat, shared-prefix, long-beside-short, burst, soak
                      a load on the server at --base-url, Bough's or any other with OpenAI's API
"""
_WHAT = (
    *("all", "executor", "offline", "http", "gpu", "grammar", "lang", "generator"),
    *("tokens", "chat", "shared-prefix", "long-beside-short", "burst", "soak"),
)


def run(argv: Sequence[str]) -> int:
    """Measure; returns 1 when requests failed, 2 when the options do not do."""
    options = _parser().parse_strictly(argv)
    try:
        options.model_dir = with_model(Settings(model=options.model_dir)).model
        # Imported late: `bough bench --help` needs none of it.
        from bough.load.children import PeerFailed
        from bough.load.command import run as measure
        from bough.load.executor_driver import ExecutorFailed
        from bough.load.served import CannotRun
    except (ModelError, ModuleNotFoundError) as error:
        print(f"bough bench: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return measure(options)
    except (CannotRun, ValueError) as error:
        print(f"bough bench: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (PeerFailed, ExecutorFailed) as error:
        print(f"bough bench: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_FAILURE


def _parser() -> Parser:
    parser = Parser(prog="bough bench", description="Measure speed and memory.", epilog=_EPILOG)
    parser.add_argument("what", choices=_WHAT, metavar="WHAT", help="see below")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result, with machine and commit")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same requests (default 0)")

    load = parser.add_argument_group("load on a server")
    load.add_argument("--base-url", default="http://127.0.0.1:8000", metavar="URL", help="default %(default)s")
    load.add_argument("--model", metavar="NAME", help="served model's name (default: the first one there is)")
    load.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY"), help="default: OPENAI_API_KEY")
    load.add_argument(
        "--concurrency", type=int, metavar="N", help="closed loop: so many clients, each waits for answers"
    )
    load.add_argument("--rate", type=float, metavar="R", help="open loop: requests a second, whatever is under way")
    load.add_argument("--burst", type=int, metavar="N", help="with --rate: so many at once, gaps longer accordingly")
    load.add_argument("--requests", type=int, metavar="N", help="stop after so many")
    load.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds")
    load.add_argument("--prompt-tokens", type=int, default=128, metavar="N", help="of `tokens` (default 128)")
    load.add_argument("--output-tokens", type=int, default=128, metavar="N", help="of an answer at most (default 128)")
    load.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default 0")
    load.add_argument("--ignore-eos", action="store_true", help="answers of full length, where the server knows it")
    load.add_argument("--no-stream", action="store_true", help="answers in one piece")

    alone = parser.add_argument_group("`executor`, `offline`, `gpu` and `all`")
    alone.add_argument("--model-dir", type=Path, metavar="DIR", help="Hugging Face directory (default: the demo model)")
    alone.add_argument("--repeats", type=int, default=3, metavar="N", help="median of so many (default 3)")
    alone.add_argument("--port", type=int, default=8200, metavar="N", help="first of ten ports to use (default 8200)")
    alone.add_argument("--log-dir", type=Path, default=Path(".bench"), metavar="DIR", help="default %(default)s")
    alone.add_argument("--peer-vllm", type=Path, metavar="PYTHON", help="interpreter that has vLLM")
    alone.add_argument("--peer-transformers", type=Path, metavar="PYTHON", help="interpreter that has transformers")

    gpu = parser.add_argument_group("`offline`, `http` and `gpu`")
    gpu.add_argument("--peer-url", metavar="URL", help="of `lang`: another server that takes what vLLM's takes")
    gpu.add_argument("--small", action="store_true", help="sizes that a CPU does in a minute")
    gpu.add_argument(
        "--clients", type=int, metavar="N", help="client processes (default: half of the cores, 4 at most)"
    )
    gpu.add_argument("--executor-address", metavar="ADDRESS", help="of `offline`: a running executor")
    gpu.add_argument("--executor-flags", default="", metavar="FLAGS", help="settings of our executor, in one word")
    gpu.add_argument("--serve-flags", default="", metavar="FLAGS", help="flags of `bough serve`, in one word")
    gpu.add_argument(
        "--models",
        default="qwen3-0.6b,qwen3-8b",
        metavar="NAMES",
        help="of `gpu`: shapes, or directories (%(default)s)",
    )
    gpu.add_argument("--engines", default="bough,vllm,sglang", metavar="NAMES", help="of `gpu` (default %(default)s)")
    gpu.add_argument("--parts", default="offline,closed,http", metavar="NAMES", help="of `gpu` (default %(default)s)")
    gpu.add_argument(
        "--add", action="store_true", help="of `gpu`: keep what the file of --json has of this commit, and add to it"
    )
    gpu.add_argument("--peers-dir", type=Path, metavar="DIR", help="of `gpu`: has NAME/site for each other engine")
    return parser
