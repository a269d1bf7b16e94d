"""Invariants of a radix tree, checked by walking it."""

from __future__ import annotations

from collections import Counter

from bough.common.prefix_hash import TOKEN_BYTES
from bough.executor.cache import Node, RadixTree


def nodes_of(tree: RadixTree) -> list[Node]:
    return list(tree._walk(list(tree._roots.values())))


def tree_pages(tree: RadixTree) -> list[int]:
    """Every page that the tree owns."""
    return [page for node in nodes_of(tree) for page in node.pages]


def path(node: Node) -> list[Node]:
    """From the root to a node."""
    steps = [node]
    while (parent := steps[-1].parent) is not None:
        steps.append(parent)
    return steps[::-1]


def path_pages(node: Node) -> list[int]:
    """The pages of the prefix that a node ends."""
    return [page for step in path(node) for page in step.pages]


def check_tree(tree: RadixTree, holders: list[Node]) -> None:
    """Asserts that links, counters and locks agree, given the node that each lock holder holds."""
    page_bytes = tree.page_size * TOKEN_BYTES
    expected: Counter[int] = Counter()
    for holder in holders:
        step: Node | None = holder
        while step is not None:
            expected[id(step)] += 1
            step = step.parent
    nodes = nodes_of(tree)
    for node in nodes:
        assert node.locks == expected[id(node)]
        assert node.edges == sorted(node.children)
        assert node.num_tails == sum(child.is_tail for child in node.children.values())
        for edge, child in node.children.items():
            assert child.parent is node
            assert bytes(child.key[:page_bytes]) == edge
            assert child.start == node.start + len(node.pages)
        if node.parent is None:
            assert node.children or node.locks, "an empty root must go"
        elif node.is_tail:
            assert len(node.pages) == 1 and not node.children and not node.hashes
            assert 0 < len(node.key) < page_bytes
            if not node.locks:
                covering = [edge for edge in node.parent.edges if edge.startswith(bytes(node.key))]
                assert len(covering) == 1, "an unlocked tail that a sibling begins with must go"
        else:
            assert node.pages and len(node.key) == len(node.pages) * page_bytes
            assert len(node.hashes) == len(node.pages)
        for pin in node.pins:
            assert pin.node is node and node.parent is not None and not node.is_tail
            assert pin.pages == pin.page_array.tolist() == path_pages(node)
            assert not any(step.is_condemned for step in path(node))
    pages = tree_pages(tree)
    assert len(set(pages)) == len(pages)
    assert tree.num_pages == len(pages)
    assert tree.num_evictable_pages == sum(len(node.pages) for node in nodes if not node.locks)
    assert tree._num_nodes == len(nodes)
