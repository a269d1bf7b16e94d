"""What a program does, as a graph: its nodes, and pictures of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

NodeKind = Literal["text", "gen", "select", "fork", "join"]

_MAX_SHOWN = 60
_SHAPES: dict[NodeKind, str] = {"text": "note", "gen": "box", "select": "diamond", "fork": "point", "join": "point"}


@dataclass(frozen=True, slots=True)
class Node:
    """Something that a program does to a state."""

    id: int
    kind: NodeKind
    state: int
    label: str
    """The text, the variable, or what is appended."""
    branches: tuple[int, ...] = ()
    """Of a fork, the new states."""

    def title(self) -> str:
        """The node in a line."""
        return f"{self.kind} {self.label}".rstrip()


@dataclass(frozen=True, slots=True)
class Edge:
    """One node comes after another one."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Graph:
    """What a program does. State 0 is the one that it begins with."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def tree(self) -> str:
        """As lines of text, branches indented."""
        return "\n".join(self._lines(0, ""))

    def dot(self) -> str:
        """As a graph for Graphviz."""
        nodes = (f"  n{node.id} [label={_quoted(node.title())}, shape={_SHAPES[node.kind]}];" for node in self.nodes)
        edges = (f"  n{edge.source} -> n{edge.target};" for edge in self.edges)
        return "\n".join(["digraph program {", *nodes, *edges, "}"])

    def mermaid(self) -> str:
        """As a flowchart for Mermaid."""
        nodes = (f'  n{node.id}["{_entities(node.title())}"]' for node in self.nodes)
        edges = (f"  n{edge.source} --> n{edge.target}" for edge in self.edges)
        return "\n".join(["flowchart TD", *nodes, *edges])

    def _lines(self, state: int, indent: str) -> Iterator[str]:
        for node in self.nodes:
            if node.state == state:
                yield indent + node.title()
                for number, branch in enumerate(node.branches):
                    yield f"{indent}  branch {number}"
                    yield from self._lines(branch, f"{indent}    ")


def shown(text: str) -> str:
    """A text in quotes, shortened."""
    return json.dumps(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…", ensure_ascii=False)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _entities(text: str) -> str:
    for character, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        text = text.replace(character, entity)
    return text
