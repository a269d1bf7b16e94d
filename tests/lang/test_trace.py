"""Programs as graphs, made without a model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from bough.lang import (
    AsyncState,
    Edge,
    ExpressionError,
    Graph,
    State,
    TraceError,
    assistant,
    function,
    gen,
    select,
    system,
    user,
)
from bough.lang.example import example_of


@function
def tips(s: State, topic: str, count: int = 2) -> None:
    s += f"On {topic}:"
    group = s.fork(count)
    group += lambda number: f" {number}." + gen("tip", max_tokens=8)
    group.join(append=True)
    s += "So " + select("good", ["yes", "no"])
    if s["good"] == "yes":
        s += " indeed"


def test_a_graph_has_a_node_for_each_text_call_fork_and_join() -> None:
    graph = tips.trace()
    assert [node.title() for node in graph.nodes] == [
        'text "On ⟨topic⟩:"',
        "fork 2",
        'text " 0."',
        "gen tip",
        'text " 1."',
        "gen tip",
        "join append",
        'text "So "',
        'select good "yes" | "no"',
        'text "yes indeed"',
    ]
    kinds = [node.kind for node in graph.nodes]
    ends = {(kinds[edge.source], kinds[edge.target]) for edge in graph.edges}
    assert ends == {
        ("text", "fork"),
        ("fork", "text"),
        ("text", "gen"),
        ("gen", "join"),
        ("fork", "join"),
        ("join", "text"),
        ("text", "select"),
        ("select", "text"),
    }


def test_a_graph_is_drawn_as_a_tree_of_text() -> None:
    assert tips.trace("tea", count=1).tree().splitlines() == [
        'text "On tea:"',
        "fork 1",
        "  branch 0",
        '    text " 0."',
        "    gen tip",
        "join append",
        'text "So "',
        'select good "yes" | "no"',
        'text "yes indeed"',
    ]


def test_a_graph_is_drawn_for_graphviz_and_mermaid() -> None:
    @function
    async def say(s: AsyncState) -> None:
        s += system('Be "brief" \\ #1') + user("<hi>") + assistant(gen("x", n=2, regex="a"))

    graph = say.trace()
    assert graph.dot().splitlines() == [
        "digraph program {",
        '  n0 [label="text system: \\"Be \\\\\\"brief\\\\\\" \\\\\\\\ #1\\"", shape=note];',
        '  n1 [label="text user: \\"<hi>\\"", shape=note];',
        '  n2 [label="text assistant:", shape=note];',
        '  n3 [label="gen x (2 of them) [regex]", shape=box];',
        "  n0 -> n1;",
        "  n1 -> n2;",
        "  n2 -> n3;",
        "}",
    ]
    assert graph.mermaid().splitlines()[:3] == [
        "flowchart TD",
        '  n0["text system: #quot;Be \\#quot;brief\\#quot; \\\\ #35;1#quot;"]',
        '  n1["text user: #quot;#lt;hi#gt;#quot;"]',
    ]


def test_a_place_that_is_gone_back_to_is_where_the_graph_goes_on() -> None:
    @function
    def program(s: State) -> None:
        s += "a"
        mark = s.mark()
        s += gen("x")
        s.rollback(mark)
        s += gen("y")

    assert program.trace().edges == (Edge(0, 1), Edge(0, 2))


class Part(BaseModel):
    kind: str
    size: float = Field(gt=0)


class Whole(BaseModel):
    parts: list[Part] = Field(min_length=2)
    other: Part | None
    note: str = "none"


def test_values_of_every_type_are_made_up() -> None:
    @function
    def program(s: State) -> tuple[Any, ...]:
        names = {"a": int, "b": float, "c": bool, "d": str}
        for name, dtype in names.items():
            s += gen(name, dtype=dtype)
        s += gen("whole", schema=Whole)
        assert len(s["whole"].parts) == 2 and s["whole"].other.kind == "⟨kind⟩"
        return tuple(s[name] for name in names)

    assert len(program.trace().nodes) == 5


def test_a_schema_that_refers_to_itself_has_an_example_too() -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "required": ["n"], "properties": {"n": {}}}}}
    schema["$defs"]["n"]["properties"]["n"] = {"$ref": "#/$defs/n"}  # type: ignore[index]
    assert "n" in example_of(schema, "x")


def test_a_program_that_does_not_end_or_fails_cannot_be_drawn() -> None:
    @function
    def endless(s: State) -> None:
        while s:
            s += gen("x")
            s.sync()

    @function
    def strict(s: State) -> None:
        s += gen("x")
        int(s["x"])

    @function
    def wrong(s: State) -> None:
        s += user(gen("x"))

    with pytest.raises(TraceError, match="does more than 10000 things"):
        endless.trace()
    with pytest.raises(TraceError, match="does not go on with made-up values: ValueError"):
        strict.trace()
    with pytest.raises(ExpressionError, match="in a turn of user"):
        wrong.trace()


def test_a_program_that_does_nothing_is_an_empty_graph() -> None:
    @function
    def nothing(s: State) -> None: ...

    assert nothing.trace() == Graph((), ())
