"""The benchmark of branches counts what it says."""

from __future__ import annotations

import pytest

from bough.load.fork_cost import OWN_TOKENS, ForkBench, main


def test_children_copy_a_page_at_most_and_compute_their_own_tokens() -> None:
    cost = ForkBench(203, 4, 3).run()
    assert (cost.copied_pages, cost.own_pages) == (1, 1)
    # What another child happens to begin with need not be computed.
    assert OWN_TOKENS - 1 <= cost.computed_tokens <= OWN_TOKENS
    assert len(cost.by_reference.reading) == len(cost.of_short_state.launching) == len(cost.whole.applying) == 3
    assert cost.by_reference.message_bytes < cost.whole.message_bytes / 2


def test_the_report_names_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tokens", "160", "--children", "3", "--repeat", "2"])
    printed = capsys.readouterr().out
    assert "3 children of 160 tokens" in printed and "by reference" in printed and "pages copied" in printed
