"""Settings of a deployment: one typed class, the same names as flags, environment variables and keys of a file.

`--max-queue 64`, `BOUGH_MAX_QUEUE=64` and `max_queue = 64` in the TOML file that `--config` or `BOUGH_CONFIG` names are
the same setting; a flag wins over the environment and that over the file. What can be measured or derived is not asked
for. A name that is no setting is refused together with the nearest one that is.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from bough.common.replicas import parse_replicas

SERVICES = ("tokenizer", "grammar", "executor", "scheduler", "detokenizer", "gateway")
"""In the order in which they depend on one another."""

ENV_PREFIX = "BOUGH_"
CONFIG_VARIABLE = "BOUGH_CONFIG"
"""Environment variable that names the file of settings; not a setting itself."""

URL_VARIABLE = "BOUGH_URL"
"""Environment variable with the address that programs of model calls are run at; not a setting of a server."""

DESCRIPTOR = "fd:"
"""Begins a `listen` that is a listening socket inherited from the launcher, as `fd:7`."""

OFF = "off"
"""Value of `grammar_cache_dir` that keeps nothing; an empty one means the same."""

DEFAULT = "default"
"""Where a value came from that nobody gave."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its value, where it came from and what is accepted."""


class Policy(StrEnum):
    """In which order waiting requests are started."""

    FCFS = "fcfs"
    LPM = "lpm"


class Settings(BaseModel):
    """All settings; each service reads the ones it needs. `load_settings` reads them from where a user puts them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Path | None = Field(default=None, description="Hugging Face model directory; the demo model when absent")
    served_model_name: str | None = Field(default=None, description="Name in the API; the directory's name when absent")
    max_context: int | None = Field(default=None, ge=1, description="Lowers the model's own context length, tokens")
    dtype: str = Field(
        default="auto", pattern="^(auto|float32|bfloat16)$", description="Weights and KV: auto|float32|bfloat16"
    )
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$", description="Where the model runs: auto|cpu|cuda")
    load_format: str = Field(
        default="auto", pattern="^(auto|dummy)$", description="auto, or dummy for random weights (to measure)"
    )
    compile: str = Field(
        default="off",
        pattern="^(off|default|max-autotune)$",
        description="Layers on a GPU by torch.compile, for steps of 5 to 512 tokens: off|default|max-autotune",
    )
    backend: str = Field(
        default="auto",
        pattern="^(auto|native|torch)$",
        description="Operations of the model on a CPU: auto|native|torch",
    )
    attention_prefill: str = Field(
        default="auto",
        pattern="^(auto|triton|flashinfer)$",
        description="Attention of large prefills on a GPU: auto|triton|flashinfer",
    )
    threads: int | None = Field(
        default=None, ge=1, description="Executor's compute threads; physical cores when absent"
    )
    kv_pages: int | None = Field(default=None, ge=2, description="Pages of the KV pool; measured at start when absent")
    max_rows: int | None = Field(default=None, ge=1, description="Requests running at once; 256 when absent")
    token_budget: int | None = Field(
        default=None, ge=1, description="Tokens computed in a step at most; 1024 on a CPU, 8192 on a GPU when absent"
    )
    mixed_token_budget: int | None = Field(
        default=None,
        ge=1,
        description="Prompt tokens in a step that decodes too, while few prompts wait; 256 on a CPU, measured on a GPU "
        "when absent",
    )

    policy: Policy = Field(
        default=Policy.FCFS, description="Order of waiting requests: fcfs or lpm (longest prefix match)"
    )
    max_queue: int = Field(default=2048, ge=1, description="Requests waiting or running before new ones get 429")
    orphan_grace_s: float = Field(
        default=10.0, ge=0, description="How long a request waits for its consumer to come back"
    )
    grammar_cache_mb: int = Field(default=256, ge=1, description="Compiled grammars kept, MiB")
    grammar_workers: int = Field(
        default=2,
        ge=2,
        le=64,
        description="Processes that compile grammars; one of them is always left for sources that do not take long",
    )
    grammar_cache_dir: str | None = Field(
        default=None,
        description="Folder of compiled grammars, kept across restarts; off keeps none; bough/grammars in the user's "
        "cache when absent",
    )
    grammar_disk_mb: int = Field(default=1024, ge=1, description="Compiled grammars in that folder, MiB")
    jump_forward: bool = Field(
        default=True, description="Text that a grammar forces is computed in one step and checked; outputs are the same"
    )

    tool_parser: str = Field(
        default="auto",
        description="How tool calls are read from the model's text: auto (by the chat template), none or a name",
    )
    reasoning_parser: str = Field(
        default="auto", description="How thoughts are told from the answer: auto (by the chat template), none or a name"
    )

    host: str = Field(default="127.0.0.1", description="Address of the REST and gRPC ports")
    port: int = Field(default=8000, ge=0, le=65535, description="REST port")
    grpc_port: int | None = Field(default=None, ge=0, le=65535, description="Public gRPC port; port + 1 when absent")
    api_key: SecretStr | None = Field(default=None, description="Bearer token that REST and gRPC calls must bring")
    max_body_mb: float = Field(default=16.0, gt=0, description="Largest request body, MiB")

    replicas: str | None = Field(
        default=None, description="Copies, as gateway=4,tokenizer=2,detokenizer=2; by the cores when absent"
    )
    copy_number: int | None = Field(
        default=None, ge=1, description="Which of its service's copies a process is; set by the launcher"
    )
    run_dir: Path | None = Field(default=None, description="Folder of the Unix sockets; a temporary one when absent")
    listen: str | None = Field(default=None, description="Address a service serves on; its Unix socket when absent")
    tokenizer_address: str | None = Field(
        default=None, description="Where the tokenizer is; its Unix socket when absent"
    )
    grammar_address: str | None = Field(
        default=None, description="Where the grammar service is; its Unix socket when absent"
    )
    executor_address: str | None = Field(default=None, description="Where the executor is; its Unix socket when absent")
    scheduler_address: str | None = Field(
        default=None, description="Where the scheduler is; its Unix socket when absent"
    )
    detokenizer_address: str | None = Field(
        default=None, description="Where the detokenizer is; its Unix socket when absent"
    )

    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="debug|info|warning|error"
    )
    log_format: str = Field(default="text", pattern="^(text|json)$", description="text or json")
    otlp_endpoint: str | None = Field(default=None, description="OpenTelemetry collector, as http://HOST:4317")
    drain_timeout_s: float = Field(default=30.0, ge=0, description="How long accepted requests may go on after SIGTERM")

    @field_validator("replicas")
    @classmethod
    def _check_replicas(cls, text: str | None) -> str | None:
        if text is not None:
            parse_replicas(text)
        return text

    @field_validator("grammar_cache_dir")
    @classmethod
    def _name_off(cls, text: str | None) -> str | None:
        # Empty environment variables are unset: another process would take the default.
        return OFF if text == "" else text

    def copies_of(self, service: str) -> int:
        """How many copies of a service `replicas` asks for; one where it says nothing of it."""
        return 1 if self.replicas is None else parse_replicas(self.replicas).get(service, 1)

    def process_name(self, service: str, copy: int) -> str:
        """What a service's copy (from 1) is called in logs and socket names: the service alone where it is the only."""
        return service if self.copies_of(service) == 1 else f"{service}-{copy}"

    def address_of(self, service: str) -> str:
        """Where a service is called: its setting, else the Unix sockets of its copies in `run_dir`, by commas.

        ConfigError when neither is set.
        """
        explicit: str | None = getattr(self, f"{service}_address", None)
        return explicit or ",".join(self.copy_addresses(service))

    def copy_addresses(self, service: str) -> list[str]:
        """The Unix socket of each copy of a service in `run_dir`. ConfigError when that is not set."""
        if self.run_dir is None:
            raise ConfigError(f"set run_dir or {service}_address: nothing says where the {service} is")
        names = (self.process_name(service, copy) for copy in range(1, self.copies_of(service) + 1))
        return [f"unix:{self.run_dir / name}.sock" for name in names]

    def listen_address(self, service: str) -> str:
        """Where a service serves: `listen`, else the Unix socket of this copy in `run_dir`."""
        return self.listen or self.copy_addresses(service)[self.copy_index(service)]

    def copy_index(self, service: str) -> int:
        """Which of its copies this process is, from 0. ConfigError when there are not so many."""
        index, copies = (self.copy_number or 1) - 1, self.copies_of(service)
        if index >= copies:
            raise ConfigError(f"copy_number is {self.copy_number}, but replicas asks for {copies} of {service}")
        return index

    def to_environment(self) -> dict[str, str]:
        """Environment variables that give another process these settings; those at their default are left out."""
        variables: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                plain = value.get_secret_value() if isinstance(value, SecretStr) else value
                variables[variable_of(name)] = str(plain)
        return variables


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings, and where each of them came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Setting -> flag, environment variable or path of a file; without those at their default."""

    def origin_of(self, name: str) -> str:
        """Where a setting's value came from."""
        return self.origins.get(name, DEFAULT)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def load_settings(
    flags: Mapping[str, str], environ: Mapping[str, str], *, config_file: Path | None = None
) -> LoadedSettings:
    """Read settings from flags, environment and file, in this order of precedence.

    Args:
        flags: Values by the setting's name, as typed.
        environ: The process environment; variables that do not begin with BOUGH_ are ignored, empty ones are unset.
        config_file: A TOML file; the one that BOUGH_CONFIG names when None.

    Raises:
        ConfigError: An unknown name, or a value that is not accepted.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    if config_file is not None:
        for name, value in _read_file(config_file).items():
            values[name], origins[name] = value, str(config_file)
    for name, text in _read_environment(environ).items():
        values[name], origins[name] = text, variable_of(name)
    for name, text in flags.items():
        values[name], origins[name] = text, flag_of(name)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, values, origins)) from None
    return LoadedSettings(settings=settings, origins=origins)


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that point to the known name most like an unknown one; empty when none is like it."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings file {str(path)!r}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not valid TOML: {error}") from None
    for name in content:
        if name not in Settings.model_fields:
            raise ConfigError(f"{str(path)!r}: {name} is no setting{nearest(name, Settings.model_fields)}")
    return content


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    by_variable = {variable_of(name): name for name in Settings.model_fields}
    found: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in (CONFIG_VARIABLE, URL_VARIABLE):
            continue
        if variable not in by_variable:
            raise ConfigError(f"the environment variable {variable} is no setting{nearest(variable, by_variable)}")
        if text:
            found[by_variable[variable]] = text
    return found


def _explain(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    lines = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0])
        shown = "" if name == "api_key" else f" = {values.get(name)!r}"
        accepted = Settings.model_fields[name].description
        lines.append(f"{name}{shown} (from {origins.get(name, DEFAULT)}): {_reason(detail['msg'])}. {name}: {accepted}")
    return "\n".join(lines)


def _reason(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
