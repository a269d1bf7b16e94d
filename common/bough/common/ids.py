"""Request ids and process epochs."""

from __future__ import annotations

import secrets
import time


def new_request_id() -> int:
    """A random non-zero 64-bit id; two draws collide with probability 2^-64."""
    return secrets.randbits(64) or 1


def new_seed() -> int:
    """A random 64-bit seed for a client that gave none."""
    return secrets.randbits(64)


def new_epoch() -> int:
    """An epoch: nanoseconds since 1970, called once at the start of a process."""
    return time.time_ns()
