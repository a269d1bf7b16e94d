"""Settings of a deployment: one typed class, the same names as flags, environment variables and keys of a file.

`--max-queue 64`, `BOUGH_MAX_QUEUE=64` and `max_queue = 64` in the file that `BOUGH_CONFIG` or `--config` names are the
same setting; a flag wins over the environment and that over the file. What can be measured or derived is not asked for.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

SERVICES = ("tokenizer", "grammar", "executor", "scheduler", "detokenizer", "gateway")
"""In the order in which they depend on one another."""


class Policy(StrEnum):
    """In which order waiting requests are started."""

    FCFS = "fcfs"
    LPM = "lpm"


class Settings(BaseSettings):
    """All settings; each service reads the ones it needs."""

    model_config = SettingsConfigDict(env_prefix="BOUGH_", extra="forbid", frozen=True, protected_namespaces=())

    model: Path | None = Field(None, description="Hugging Face model directory; the demo model when absent")
    served_model_name: str | None = Field(None, description="Name in the API; the directory's name when absent")
    max_context: int | None = Field(None, ge=1, description="Lowers the model's own context length, tokens")
    dtype: str = Field("auto", pattern="^(auto|float32|bfloat16)$", description="Weights and KV: auto|float32|bfloat16")
    device: str = Field("auto", description="auto, cpu or cuda")
    attention_backend: str = Field("auto", description="auto, or the name of a backend")
    threads: int | None = Field(None, ge=1, description="Executor's compute threads; physical cores when absent")
    kv_pages: int | None = Field(None, ge=2, description="Pages of the KV pool; measured at start when absent")
    max_rows: int | None = Field(None, ge=1, description="Requests running at once; derived from the pool when absent")
    token_budget: int | None = Field(None, ge=1, description="Tokens computed in a step at most; derived when absent")

    policy: Policy = Field(Policy.FCFS, description="Order of waiting requests: fcfs or lpm (longest prefix match)")
    max_queue: int = Field(2048, ge=1, description="Requests waiting or running before new ones get 429")
    orphan_grace_s: float = Field(10.0, ge=0, description="How long a request waits for its consumer to come back")
    grammar_cache_mb: int = Field(256, ge=1, description="Compiled grammars kept, MiB")

    host: str = Field("127.0.0.1", description="Address of the REST and gRPC ports")
    port: int = Field(8000, ge=0, le=65535, description="REST port")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="Public gRPC port; port + 1 when absent")
    api_key: SecretStr | None = Field(None, description="Bearer token that REST and gRPC calls must bring")
    max_body_mb: float = Field(16.0, gt=0, description="Largest request body, MiB")

    run_dir: Path | None = Field(None, description="Folder of the Unix sockets; a temporary one when absent")
    listen: str | None = Field(None, description="Address a service serves on; its Unix socket when absent")
    tokenizer_address: str | None = Field(None, description="Where the tokenizer is; its Unix socket when absent")
    grammar_address: str | None = Field(None, description="Where the grammar service is")
    executor_address: str | None = Field(None, description="Where the executor is")
    scheduler_address: str | None = Field(None, description="Where the scheduler is")
    detokenizer_address: str | None = Field(None, description="Where the detokenizer is")

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug|info|warning|error")
    log_format: str = Field("text", pattern="^(text|json)$", description="text or json")
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry collector, as http://HOST:4317")
    drain_timeout_s: float = Field(30.0, ge=0, description="How long accepted requests may go on after SIGTERM")

    def address_of(self, service: str) -> str:
        """Where a service is called: its setting, else its Unix socket in `run_dir`. ValueError when neither is set."""
        explicit: str | None = getattr(self, f"{service}_address", None)
        return explicit or self._socket_of(service)

    def listen_address(self, service: str) -> str:
        """Where a service serves: `listen`, else its Unix socket in `run_dir`."""
        return self.listen or self._socket_of(service)

    def _socket_of(self, service: str) -> str:
        if self.run_dir is None:
            raise ValueError(f"set run_dir or {service}_address: nothing says where the {service} is")
        return f"unix:{self.run_dir / service}.sock"
