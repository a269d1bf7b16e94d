"""What says whether a text has a format: jsonschema, and Python's own readers where it leaves that to others."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

import jsonschema

formats = jsonschema.FormatChecker(["date", "uuid", "ipv4", "ipv6", "email"])


@formats.checks("date-time", ValueError)
def _is_datetime(text: object) -> bool:
    return not isinstance(text, str) or datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None


@formats.checks("time", ValueError)
def _is_time(text: object) -> bool:
    return not isinstance(text, str) or _is_datetime(f"2000-01-01T{text}")


@formats.checks("uri", ValueError)
def _is_uri(text: object) -> bool:
    return not isinstance(text, str) or bool(urlsplit(text).scheme and urlsplit(text).hostname)
