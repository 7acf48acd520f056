"""A lineage as a drawing: runs and artifacts in columns, data from left to right; SVG with no script."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from orchestrator.questions.lineage import Edge, Graph, Node
from orchestrator.report.markup import Markup, element, middle

MOST = 60  # nodes that are drawn, the nearest
_WIDE, _HIGH, _APART, _BETWEEN = 214, 46, 40, 14
_LETTERS = 26


@dataclass(frozen=True)
class Drawn:
    """The drawing, and how many nodes there was no room for."""

    picture: Markup
    left_out: int


def union(graphs: list[Graph], roots: list[str]) -> tuple[list[Node], list[Edge]]:
    """Several lineages as one: the nodes nearest to the roots first."""
    nodes = {node.id: node for graph in graphs for node in graph.nodes}
    edges = list(dict.fromkeys(edge for graph in graphs for edge in (*graph.up, *graph.down)))
    beside: dict[str, list[str]] = {}
    for edge in edges:
        beside.setdefault(edge.source, []).append(edge.target)
        beside.setdefault(edge.target, []).append(edge.source)
    order, pending = dict.fromkeys(roots), deque(roots)
    while pending:
        for other in beside.get(pending.popleft(), ()):
            if other not in order:
                order[other] = None
                pending.append(other)
    return [nodes[name] for name in order if name in nodes], edges


def draw(nodes: list[Node], edges: list[Edge], letters: dict[str, str]) -> Drawn:
    """The nodes in columns, each to the right of all that leads to it. ``letters`` name the runs of the report."""
    shown = nodes[:MOST]
    names = {node.id for node in shown}
    kept = [e for e in edges if e.source in names and e.target in names and e.source != e.target]
    columns = _columns(shown, kept)
    tallest = max(len(column) for column in columns)
    height = tallest * (_HIGH + _BETWEEN) - _BETWEEN + 4
    places: dict[str, tuple[float, float]] = {}
    for at, column in enumerate(columns):
        top = (height - len(column) * (_HIGH + _BETWEEN) + _BETWEEN) / 2
        for row, name in enumerate(column):
            places[name] = (2 + at * (_WIDE + _APART), top + row * (_HIGH + _BETWEEN))
    width = len(columns) * (_WIDE + _APART) - _APART + 4
    parts = [_arrow(places[edge.source], places[edge.target]) for edge in kept]
    parts += [_box(node, places[node.id], letters.get(node.id)) for node in shown]
    picture = element(
        "svg",
        element("title", f"Lineage: {len(shown)} runs and artifacts; the same as text below"),
        parts,
        class_="lineage",
        width=width,
        height=f"{height:.0f}",
        viewBox=f"0 0 {width} {height:.0f}",
        role="img",
    )
    return Drawn(picture, len(nodes) - len(shown))


def _columns(nodes: list[Node], edges: list[Edge]) -> list[list[str]]:
    """Longest way from a source; a way round, which only a false record has, is cut by the bound."""
    depth = {node.id: 0 for node in nodes}
    for _ in range(len(nodes)):
        moved = False
        for edge in edges:
            if depth[edge.target] <= depth[edge.source] < len(nodes):
                depth[edge.target], moved = depth[edge.source] + 1, True
        if not moved:
            break
    levels = {level: at for at, level in enumerate(sorted(set(depth.values())))}
    columns: list[list[str]] = [[] for _ in levels]
    for node in nodes:
        columns[levels[depth[node.id]]].append(node.id)
    for _ in range(2):  # each where its neighbours are, so that few lines cross
        for forward in (True, False):
            _straighten(columns, edges, forward=forward)
    return columns


def _straighten(columns: list[list[str]], edges: list[Edge], *, forward: bool) -> None:
    row = {name: at for column in columns for at, name in enumerate(column)}
    beside: dict[str, list[int]] = {}
    for edge in edges:
        here, there = (edge.target, edge.source) if forward else (edge.source, edge.target)
        beside.setdefault(here, []).append(row[there])
    for column in columns if forward else reversed(columns):
        middles = {name: sum(rows) / len(rows) for name, rows in beside.items()}
        column.sort(key=lambda name: middles.get(name, row[name]))


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> Markup:
    x1, y1 = source[0] + _WIDE, source[1] + _HIGH / 2
    x2, y2 = target[0], target[1] + _HIGH / 2
    bend = max(_APART / 2, abs(x2 - x1) / 2)
    way = f"M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2 - 5:.0f} {y2:.0f}"
    head = f"M{x2:.0f} {y2:.0f}l-7 -4v8z"
    return element("g", element("path", class_="way", d=way), element("path", class_="head", d=head))


def _box(node: Node, place: tuple[float, float], letter: str | None) -> Markup:
    x, y = place
    look = f"node {node.kind}" + (" root" if letter else "")
    first = middle(node.id, _LETTERS if not letter else _LETTERS - 3)
    return element(
        "g",
        element("title", f"{node.id}: {node.about}"),
        element(
            "rect", x=f"{x:.0f}", y=f"{y:.0f}", width=_WIDE, height=_HIGH, rx=6 if node.kind == "run" else 23
        ),
        element(
            "text",
            f"{letter}  {first}" if letter else first,
            class_="name",
            x=f"{x + 14:.0f}",
            y=f"{y + 19:.0f}",
        ),
        element(
            "text", middle(node.about, _LETTERS + 2), class_="about", x=f"{x + 14:.0f}", y=f"{y + 35:.0f}"
        ),
        class_=look,
    )
