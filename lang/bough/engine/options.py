"""Settings of an engine: those of `bough serve`, by name, less those that an engine chooses for itself."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from bough.cli.models import check_model, with_model
from bough.common.config import ConfigError, Settings, flag_of, nearest

_CHOSEN = ("model", "host", "port", "grpc_port", "api_key", "run_dir", "listen", "copy_number")
_KEY_BYTES = 24


def settings_of(model: str | Path | None, given: Mapping[str, Any]) -> Settings:
    """Complete settings but for ports and folders, which the launcher finds. The environment has no say.

    Args:
        model: A model directory; the demo model where None.
        given: Settings by name.

    Raises:
        ConfigError: One is unknown, cannot be used, or is the engine's to choose.
        ModelError: The model cannot be served.
    """
    known = [name for name in Settings.model_fields if name not in _CHOSEN]
    for name in given:
        if name in _CHOSEN:
            raise ConfigError(f"{name}: an engine chooses it itself; engine.url and engine.api_key say how to reach it")
        if name not in known:
            raise ConfigError(f"{name} is no setting{nearest(name, known)}; `bough serve --help` lists them")
    # Anybody on this machine can reach a port; only who has the key can use it.
    key = SecretStr(secrets.token_urlsafe(_KEY_BYTES))
    try:
        settings = Settings(**given, model=None if model is None else Path(model), port=0, grpc_port=0, api_key=key)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail, given) for detail in error.errors(include_url=False))) from None
    settings = with_model(settings)
    check_model(settings)
    return settings


def command_of(given: Mapping[str, Any], model: str | Path | None) -> str:
    """The command line that starts the same services in a terminal."""
    flags = [f"{flag_of(name)} {value}" for name, value in given.items()]
    return " ".join(["bough serve", *([] if model is None else [str(model)]), *flags])


def _explain(detail: Any, given: Mapping[str, Any]) -> str:
    name = str(detail["loc"][0])
    accepted = Settings.model_fields[name].description
    return f"{name} = {given.get(name)!r}: {detail['msg']}. {name}: {accepted}"
