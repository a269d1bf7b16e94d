"""The engine: a model on this machine for one Python program, by services of its own that end with it."""

from bough.common.config import ConfigError
from bough.common.errors import ModelError
from bough.engine.engine import Engine
from bough.engine.errors import BatchError, EngineClosedError, EngineStartError

__all__ = ["BatchError", "ConfigError", "Engine", "EngineClosedError", "EngineStartError", "ModelError"]
