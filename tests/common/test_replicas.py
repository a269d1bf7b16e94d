"""How many copies of a service there are, and where they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from bough.common.config import ConfigError, Settings, load_settings
from bough.common.replicas import ACCEPTED, automatic_replicas, format_replicas, parse_replicas, usable_cores


@pytest.mark.parametrize(
    ("cores", "gateways", "detokenizers"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 1), (7, 1, 1), (8, 2, 1), (12, 3, 1), (16, 4, 2), (128, 4, 2)],
)
def test_few_cores_get_one_copy_of_each_and_more_cores_more(cores: int, gateways: int, detokenizers: int) -> None:
    copies = automatic_replicas(cores)
    assert copies == {"gateway": gateways, "tokenizer": detokenizers, "detokenizer": detokenizers}
    assert parse_replicas(format_replicas(copies)) == copies


@pytest.mark.parametrize(
    "text",
    ["", "gateway", "gateway=", "gateway=0", "gateway=-1", "gateway=x", "gateway=65", "gateway=²", "scheduler=2",
     "gateway=2,", "gateway=2;tokenizer=2", "gateway=2,gateway=3"],
)  # fmt: skip
def test_a_value_that_is_not_understood_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="accepted is") as refusal:
        parse_replicas(text)
    assert ACCEPTED in str(refusal.value)


def test_the_flag_is_named_with_the_value_that_it_was_given() -> None:
    with pytest.raises(
        ConfigError, match=r"replicas = 'executor=2' \(from --replicas\): 'executor=2' names no service"
    ):
        load_settings({"replicas": "executor=2"}, {})


def test_every_copy_has_a_socket_of_its_own_and_callers_get_all_of_them() -> None:
    settings = Settings(run_dir=Path("/r"), replicas="detokenizer=2, gateway=1")
    assert settings.address_of("detokenizer") == "unix:/r/detokenizer-1.sock,unix:/r/detokenizer-2.sock"
    assert settings.address_of("tokenizer") == "unix:/r/tokenizer.sock"
    second = settings.model_copy(update={"copy_number": 2})
    assert second.listen_address("detokenizer") == "unix:/r/detokenizer-2.sock"
    with pytest.raises(ConfigError, match="copy_number is 2, but replicas asks for 1 of tokenizer"):
        second.listen_address("tokenizer")


def test_a_quota_of_the_container_counts_where_it_is_less_than_the_cores(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    unlimited = usable_cores(tmp_path / "none")
    for text, cores in (("100000 100000", 1), ("50000 100000", 1), ("max 100000", unlimited), ("", unlimited)):
        quota.write_text(text)
        assert usable_cores(quota) == cores
