"""`python -m tests.integration.chaos_table [SERVICE …]`: kills services under load and prints what clients saw."""

from __future__ import annotations

import sys

from tests.integration.chaos import Chaos, table
from tests.integration.server import Server

SERVICES = ("tokenizer", "grammar", "detokenizer", "executor", "scheduler")


def main(services: list[str]) -> int:
    """Returns 1 when a stream was altered or lost."""
    with Server("--dtype", "float32") as server:
        chaos = Chaos(server)
        reports = [chaos.kill(service) for service in services or SERVICES]
    print(table(reports))  # noqa: T201  # a program whose purpose is its table
    for report in reports:
        for line in (*report.altered, *report.lost):
            print(f"{report.service}: {line}")  # noqa: T201
    return int(any(report.altered or report.lost for report in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
