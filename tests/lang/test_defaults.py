"""Which server a program runs on where it is not told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bough.lang import Bough, Fake, set_default_backend
from bough.lang.defaults import find_backend


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    set_default_backend(None)


def address_of(backend: object) -> str:
    assert isinstance(backend, Bough)
    return backend.address


def test_the_server_is_the_one_that_is_given_or_set_or_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BOUGH_URL", raising=False)
    assert address_of(find_backend(None)) == "127.0.0.1:8001"
    monkeypatch.setenv("BOUGH_URL", "http://trees:9000")
    assert address_of(find_backend(None)) == "trees:9001"
    set_default_backend("http://woods:7000")
    assert address_of(find_backend(None)) == "woods:7001"
    assert address_of(find_backend("http://fields:6000")) == "fields:6001"
    fake = Fake()
    set_default_backend(fake)
    assert find_backend(None) is fake


def test_grpc_is_at_another_port_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUGH_GRPC_PORT", "5555")
    assert address_of(find_backend("http://elsewhere:9000")) == "elsewhere:5555"


def test_programs_on_one_address_share_its_connections() -> None:
    assert find_backend("http://trees:9000") is find_backend("http://trees:9000")
