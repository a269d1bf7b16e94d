"""Settings: precedence, names, and what is said of values that are not accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bough.common.config import ConfigError, Policy, Settings, load_settings, variable_of


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bough.toml"
    file.write_text("port = 1\nmax_queue = 2\ntoken_budget = 3\n")
    environ = {"BOUGH_PORT": "4", "BOUGH_MAX_QUEUE": "5", "BOUGH_CONFIG": str(file), "HOME": "/"}
    loaded = load_settings({"port": "6"}, environ)
    assert (loaded.settings.port, loaded.settings.max_queue, loaded.settings.token_budget) == (6, 5, 3)
    assert [loaded.origin_of(n) for n in ("port", "max_queue", "token_budget", "policy")] == [
        "--port",
        "BOUGH_MAX_QUEUE",
        str(file),
        "default",
    ]


def test_a_file_given_by_argument_replaces_the_one_of_the_environment(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.toml", tmp_path / "other.toml"
    mine.write_text("port = 1\n")
    other.write_text("port = 2\n")
    assert load_settings({}, {"BOUGH_CONFIG": str(other)}, config_file=mine).settings.port == 1


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({}, {"BOUGH_API_KEY": ""}).settings.api_key is None


def test_the_address_that_programs_run_at_is_no_setting_of_a_server() -> None:
    assert load_settings({}, {"BOUGH_URL": "http://127.0.0.1:8137"}).origins == {}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"BOUGH_PROT": "1"}, ["BOUGH_PROT", "BOUGH_PORT"]),
        ({"BOUGH_MAXQUEUE": ""}, ["BOUGH_MAXQUEUE", "BOUGH_MAX_QUEUE"]),
        ({"BOUGH_PORT": "70000"}, ["port", "70000", "BOUGH_PORT", "65535"]),
        ({"BOUGH_POLICY": "lifo"}, ["policy", "lifo", "fcfs", "lpm"]),
        ({"BOUGH_COMPILE": "reduce-overhead"}, ["compile", "reduce-overhead", "off|default|max-autotune"]),
        ({"BOUGH_DRAIN_TIMEOUT_S": "nan s"}, ["drain_timeout_s", "nan s"]),
    ],
)
def test_a_bad_variable_is_refused_by_name_value_and_what_is_accepted(environ: dict[str, str], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({}, environ)
    assert all(word in str(caught.value) for word in said), str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("prot = 1", "did you mean port?"), ("port =", "not valid TOML"), ("[server]\nport = 1", "server is no setting")],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "bough.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"bough\.toml") as caught:
        load_settings({}, {}, config_file=file)
    assert said in str(caught.value)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_settings({}, {}, config_file=tmp_path / "missing.toml")


def test_an_api_key_is_shown_neither_in_errors_nor_in_the_settings() -> None:
    loaded = load_settings({}, {"BOUGH_API_KEY": "s3cret"})
    assert "s3cret" not in repr(loaded)
    with pytest.raises(ConfigError) as caught:
        load_settings({"port": "x"}, {"BOUGH_API_KEY": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_settings_survive_the_way_through_the_environment() -> None:
    settings = load_settings(
        {"model": "/m", "port": "0", "policy": "lpm", "api_key": "k", "orphan_grace_s": "0.5", "run_dir": "/r"}, {}
    ).settings
    variables = settings.to_environment()
    assert variables["BOUGH_API_KEY"] == "k" and variables["BOUGH_POLICY"] == "lpm"
    assert set(variables) <= {variable_of(name) for name in Settings.model_fields}
    assert load_settings({}, variables).settings == settings


def test_a_service_is_found_by_its_address_or_by_its_socket() -> None:
    settings = Settings(run_dir=Path("/run/bough"), scheduler_address="host:1", policy=Policy.LPM)
    assert settings.address_of("scheduler") == "host:1"
    assert settings.address_of("tokenizer") == "unix:/run/bough/tokenizer.sock"
    assert settings.listen_address("tokenizer") == "unix:/run/bough/tokenizer.sock"
    assert Settings(listen="0.0.0.0:1").listen_address("tokenizer") == "0.0.0.0:1"
    with pytest.raises(ConfigError, match="run_dir or executor_address"):
        Settings().address_of("executor")
