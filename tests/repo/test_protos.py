"""The contracts: generated code is up to date, and every part of them is explained."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

from tests.helpers.repository import ROOT

PROTOS = ROOT / "protos"
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("bough/**/*.proto"))

# Field numbers of descriptor.proto: how a place in a file is written in its source info.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS, _METHODS, _VALUES = 2, 3, 4, 2, 2

Place = tuple[int, ...]


@cache
def files() -> dict[str, FileDescriptorProto]:
    """Descriptors of all proto files, comments included."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"
        arguments = ["protoc", f"--proto_path={PROTOS}", "--include_source_info", f"--descriptor_set_out={output}"]
        assert protoc.main([*arguments, *SOURCES]) == 0
        return {file.name: file for file in FileDescriptorSet.FromString(output.read_bytes()).file}


def test_the_generated_code_is_that_of_the_protos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    from gen_protos import generate  # type: ignore[import-not-found, unused-ignore]

    generate(tmp_path)
    fresh = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.py*")}
    committed = PROTOS / "gen"
    kept = {
        str(path.relative_to(committed)): path.read_bytes()
        for path in committed.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }
    assert sorted(fresh) == sorted(kept)
    assert [name for name in fresh if fresh[name] != kept[name]] == [], "run: make protos"


def enums_of(message: DescriptorProto, place: Place) -> Iterator[tuple[EnumDescriptorProto, Place]]:
    for index, enum in enumerate(message.enum_type):
        yield enum, (*place, _NESTED_ENUMS, index)
    for index, nested in enumerate(message.nested_type):
        yield from enums_of(nested, (*place, _NESTED, index))


def all_enums(file: FileDescriptorProto) -> Iterator[tuple[EnumDescriptorProto, Place]]:
    for index, enum in enumerate(file.enum_type):
        yield enum, (_ENUMS, index)
    for index, message in enumerate(file.message_type):
        yield from enums_of(message, (_MESSAGES, index))


def message_places(message: DescriptorProto, place: Place) -> Iterator[tuple[str, Place]]:
    yield message.name, place
    for index, field in enumerate(message.field):
        yield f"{message.name}.{field.name}", (*place, _FIELDS, index)
    for index, nested in enumerate(message.nested_type):
        if nested.options.map_entry:  # made by protoc for a map field
            continue
        yield from message_places(nested, (*place, _NESTED, index))


def places(file: FileDescriptorProto) -> Iterator[tuple[str, Place]]:
    """(name, place) of everything that must be explained."""
    for index, service in enumerate(file.service):
        yield service.name, (_SERVICES, index)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (_SERVICES, index, _METHODS, number)
    for index, message in enumerate(file.message_type):
        yield from message_places(message, (_MESSAGES, index))
    for enum, place in all_enums(file):
        yield enum.name, place
        for number, value in enumerate(enum.value):
            if number > 0:
                yield value.name, (*place, _VALUES, number)


@pytest.mark.parametrize("name", SOURCES)
def test_every_service_call_message_field_and_value_has_a_comment(name: str) -> None:
    file = files()[name]
    explained = {
        tuple(location.path)
        for location in file.source_code_info.location
        if location.leading_comments.strip() or location.trailing_comments.strip()
    }
    assert [what for what, place in places(file) if place not in explained] == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_folder_is_the_package(name: str) -> None:
    assert files()[name].package == str(Path(name).parent).replace("/", ".")


@pytest.mark.parametrize("name", SOURCES)
def test_enums_begin_with_unspecified_and_values_carry_the_name_of_the_enum(name: str) -> None:
    wrong = []
    for enum, _ in all_enums(files()[name]):
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
        if enum.value[0].number != 0 or enum.value[0].name != f"{prefix}UNSPECIFIED":
            wrong.append(enum.name)
        wrong += [value.name for value in enum.value if not value.name.startswith(prefix)]
    assert wrong == []


@pytest.mark.parametrize("name", SOURCES)
def test_fields_stand_in_the_order_of_their_numbers(name: str) -> None:
    wrong = []
    for message in files()[name].message_type:
        numbers = [field.number for field in message.field]
        if numbers != sorted(numbers):
            wrong.append(message.name)
    assert wrong == []
