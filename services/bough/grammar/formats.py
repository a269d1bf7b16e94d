"""The formats of strings that are claimed, each as a pattern of texts that surely have it."""

from __future__ import annotations

from collections.abc import Callable

_DAY = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
# Not the 29th of February, which would need the year's remainder, nor the year 0, which many libraries refuse.
_DATE = rf"(0[0-9]{{2}}[1-9]|0[0-9][1-9][0-9]|0[1-9][0-9]{{2}}|[1-9][0-9]{{3}})-{_DAY}"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# Counts are small: each character that is counted is a state of the automaton.
_MAX_LABEL = 20
_NUM_LABELS = 3
_MAX_TOP = 8
_MAX_HOST = _NUM_LABELS * (_MAX_LABEL + 1) + _MAX_TOP
_MAX_LOCAL = 24
_MAX_EMAIL = 2 * _MAX_LOCAL + 2 + _MAX_HOST
_PORT = "(:[1-9][0-9]{0,3})?"
_MAX_SITE = len("https://") + _MAX_HOST + len(":9999")
_MAX_PART = 128
"""Of path and of query of a URI with a bound."""

_HEX = "[0-9a-f]"


def _host(most: int = _MAX_HOST) -> str:
    """Names of hosts of at most so many characters; at least 10."""
    num_labels = _NUM_LABELS if most >= _MAX_HOST // 2 else 1
    label = min(_MAX_LABEL, (most - _MAX_TOP) // num_labels - 1)
    return rf"([a-z0-9]{{1,{label}}}\.){{1,{num_labels}}}[a-z]{{2,{_MAX_TOP}}}"


def _email(most: int) -> str:
    local = min(_MAX_LOCAL, most // 3)
    return rf"[A-Za-z0-9_+-]{{1,{local}}}@{_host(min(_MAX_HOST, most - local - 1))}"


def _uri(most: int) -> str:
    site = min(_MAX_SITE, most - most // 4)
    room = most - site - len("/?")
    path, query = min(room - room // 2, _MAX_PART), min(room // 2, _MAX_PART)
    host = _host(site - _MAX_SITE + _MAX_HOST)
    return rf"https?://{host}{_PORT}(/[A-Za-z0-9._~/-]{{0,{path}}})?(\?[A-Za-z0-9._~=&-]{{0,{query}}})?"


FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "duration": r"P([0-9]{1,4}W|[0-9]{1,4}D(T[0-9]{1,4}H)?|T[0-9]{1,4}(H([0-9]{1,4}M)?|M([0-9]{1,4}S)?|S))",
    "uuid": rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "ipv4": rf"{_OCTET}(\.{_OCTET}){{3}}",
    "ipv6": rf"({_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}",
    "hostname": _host(),
    "email": rf"[A-Za-z0-9_+-]{{1,24}}(\.[A-Za-z0-9_+-]{{1,24}})?@{_host()}",
    "uri": rf"https?://{_host()}{_PORT}(/[A-Za-z0-9._~-]*)*(\?[A-Za-z0-9._~=&-]*)?",
}
"""Name -> pattern of the whole text. What is refused by a pattern here may have the format all the same; what fits has
it by RFC 3339, 4122, 2673, 4291, 1123, 5321 and 3986."""

_FITTED: dict[str, tuple[Callable[[int], str], int, int | None]] = {
    "hostname": (_host, 24, _MAX_HOST),
    "email": (_email, 24, _MAX_EMAIL),
    "uri": (_uri, 32, None),
}
"""Formats of texts of many lengths: what makes patterns of shorter ones, from how many characters on (below, texts are
few enough to be counted as they are), and the most that the pattern above has."""


def format_pattern(name: str, most: int | None = None) -> str:
    """The pattern of a format, with the anchors of the whole.

    Args:
        name: Of the format.
        most: Characters that a text may have; where it is small, some that match have more.
    """
    pattern = FORMATS[name]
    if most is not None and name in _FITTED:
        fit, least, has = _FITTED[name]
        if most >= least and (has is None or has > most):
            pattern = fit(most)
    return f"^({pattern})$"
