"""What a server says that it serves."""

from __future__ import annotations

import json

from bough.load.http_client import Target, exchange


class CannotRun(Exception):
    """The options do not go together, or no server answers; the text is for the user."""


async def only_model(target: Target) -> str:
    """The first model of a server's list. CannotRun when it gives none."""
    answer = await exchange(target, target.get("/v1/models"), timeout_s=10.0)
    if answer.error is not None:
        raise CannotRun(f"no model list at {target.host}:{target.port} ({answer.error})")
    return str(json.loads(answer.body)["data"][0]["id"])
