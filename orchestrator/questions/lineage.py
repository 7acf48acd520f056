"""Where an artifact or a run comes from, and what was made of it: a graph of artifacts and runs, both ways.

Edges go the way of the data: from a run to what it saved, from an artifact to the run that took it in; and from a run
that the engine ended to the one that was made in its place. A version is
created once, so nothing can come from itself by way of others; the walk is guarded all the same, since a record is
input from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.artifacts import version
from orchestrator.artifacts.version import Version
from orchestrator.canonical import Json
from orchestrator.catalog.row import Row
from orchestrator.errors import ArtifactError, MirageError
from orchestrator.ports import Store
from orchestrator.reference import RunId


@dataclass(frozen=True)
class Node:
    """An artifact or a run; ``about`` is a line for people, ``digest`` that of the manifest or the record."""

    id: str
    kind: str  # artifact | run
    digest: str | None
    about: str


@dataclass(frozen=True)
class Edge:
    """Data went from one to the other."""

    source: str
    target: str
    how: str  # saved | input | resumed | retried


@dataclass(frozen=True)
class Graph:
    """What was found around ``root``; ``up`` and ``down`` are the edges that lead to it and away from it."""

    root: str
    nodes: tuple[Node, ...]
    up: tuple[Edge, ...]
    down: tuple[Edge, ...]

    def node(self, name: str) -> Node:
        """A node by its id."""
        return next(node for node in self.nodes if node.id == name)


class Walk:
    """Follows data through a store. ``row``, ``consumers`` of an artifact and ``retries`` of a run answer from the records."""

    def __init__(
        self,
        store: Store,
        row: Callable[[str], Row | None],
        consumers: Callable[[str], Iterable[RunId]],
        retries: Callable[[str], Iterable[RunId]] = lambda run: (),
    ) -> None:
        self._store = store
        self._row = row
        self._consumers = consumers
        self._retries = retries
        self._nodes: dict[str, Node] = {}

    def around(self, root: str, *, up: bool, down: bool) -> Graph:
        """The graph around an artifact's id or a run's. Raises ArtifactError or StoreError for a bad root."""
        if self._is_artifact(root):
            root = str(version.resolve(self._store, root).ref)
        upward = self._follow(root, self._above) if up else ()
        downward = self._follow(root, self._below) if down else ()
        self._node(root)
        return Graph(root, tuple(self._nodes.values()), upward, downward)

    def _follow(self, root: str, step: Callable[[str], list[Edge]]) -> tuple[Edge, ...]:
        found: dict[Edge, None] = {}
        seen, pending = {root}, deque([root])
        while pending:
            here = pending.popleft()
            for edge in step(here):
                found[edge] = None
                other = edge.source if edge.target == here else edge.target
                self._node(other)
                if other not in seen:
                    seen.add(other)
                    pending.append(other)
        return tuple(found)

    def _above(self, name: str) -> list[Edge]:
        if self._is_artifact(name):
            made = self._version(name)
            if made is None or made.run is None or made.run == "plain":
                return []
            return [Edge(made.run, name, "saved")]
        row = self._row(name)
        if row is None:
            return []
        before = row.recorded()["retry_of"]
        retried = [Edge(str(before), name, "retried")] if before else []
        return [*retried, *(Edge(each, name, _taken(row, each)) for each in _inputs(row))]

    def _below(self, name: str) -> list[Edge]:
        if self._is_artifact(name):
            return [Edge(name, run, _taken(self._row(run), name)) for run in self._consumers(name)]
        row = self._row(name)
        if row is None:
            return []
        saved = [Edge(name, each, "saved") for each in _outputs(row)]
        return [*saved, *(Edge(name, run, "retried") for run in self._retries(name))]

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            self._nodes[name] = self._artifact(name) if self._is_artifact(name) else self._run(name)
        return self._nodes[name]

    def _artifact(self, name: str) -> Node:
        made = self._version(name)
        if made is None:
            return Node(name, "artifact", None, "no longer in the store")
        by = {None: "added by hand", "plain": "saved by a workflow outside of a container"}.get(made.run)
        about = f"{by} {made.created}" if by else made.manifest.format
        return Node(name, "artifact", made.digest, about)

    def _run(self, name: str) -> Node:
        row = self._row(name)
        if row is None:
            return Node(name, "run", None, "its record is not in the store")
        told = row.recorded()
        commit = str(told["commit"])[:10] + ("+" if told["dirty"] else "")
        return Node(name, "run", row.digest, f"{told['status']}, {told['config']} at {commit}")

    def _version(self, name: str) -> Version | None:
        try:
            return version.resolve(self._store, name)
        except ArtifactError:
            return None

    def _is_artifact(self, name: str) -> bool:
        return ":" in name


def _inputs(row: Row) -> list[str]:
    found = row.recorded()["inputs"]
    return list(dict.fromkeys(map(str, found))) if isinstance(found, list) else []


def _taken(row: Row | None, name: str) -> str:
    """How a run had an input: as its config says, or of the run that it resumes."""
    return "resumed" if row is not None and name in row.resumed else "input"


def _outputs(row: Row) -> list[str]:
    found = row.recorded()["outputs"]
    return list(dict.fromkeys(map(str, found))) if isinstance(found, list) else []


def finder(find: Callable[[str], Row]) -> Callable[[str], Row | None]:
    """``find``, which gives None in place of an error, and remembers."""
    known: dict[str, Row | None] = {}

    def found(name: str) -> Row | None:
        if name not in known:
            try:
                known[name] = find(name)
                known[name].recorded()  # type: ignore[union-attr]  # a damaged record is as good as none
            except MirageError:
                known[name] = None
        return known[name]

    return found


def tree(graph: Graph, *, up: bool) -> list[str]:
    """The graph as lines of a tree, from the root on; what was shown above is not unfolded again."""
    edges: dict[str, list[tuple[str, str]]] = {}
    for edge in graph.up if up else graph.down:
        here, other = (edge.target, edge.source) if up else (edge.source, edge.target)
        how = f" ({edge.how})" if edge.how in ("resumed", "retried") else ""
        edges.setdefault(here, []).append((other, how))
    nodes = {node.id: node for node in graph.nodes}
    lines = [_line(nodes[graph.root])]
    shown = {graph.root}
    pending = [
        (*other, "", at == len(edges[graph.root]) - 1) for at, other in enumerate(edges.get(graph.root, ()))
    ]
    pending.reverse()
    while pending:
        name, how, indent, last = pending.pop()
        again = " (see above)" if name in shown and name in edges else ""
        lines.append(f"{indent}{'└─ ' if last else '├─ '}{_line(nodes[name])}{how}{again}")
        if not again:
            shown.add(name)
            below = edges.get(name, [])
            inner = indent + ("   " if last else "│  ")
            pending += [(*each, inner, at == len(below) - 1) for at, each in reversed([*enumerate(below)])]
    return lines


def _line(node: Node) -> str:
    return f"{node.id}  {node.about}"


def to_json(graph: Graph) -> dict[str, Json]:
    """The object that `mirage lineage --json` prints."""
    edges = dict.fromkeys((*graph.up, *graph.down))
    return {
        "root": graph.root,
        "nodes": [
            {"id": node.id, "kind": node.kind, "digest": node.digest, "about": node.about}
            for node in graph.nodes
        ],
        "edges": [{"from": edge.source, "to": edge.target, "how": edge.how} for edge in edges],
    }


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz' language (graphviz.org/doc/info/lang.html)."""
    lines = ["digraph lineage {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
    for node in graph.nodes:
        shape = "box" if node.kind == "run" else "ellipse"
        style = ", style=bold" if node.id == graph.root else ""
        lines.append(f"  {_dot(node.id)} [shape={shape}, label={_dot(node.id, node.about)}{style}];")
    for edge in dict.fromkeys((*graph.up, *graph.down)):
        lines.append(f"  {_dot(edge.source)} -> {_dot(edge.target)};")
    return "\n".join([*lines, "}"])


def _dot(*parts: str) -> str:
    return '"' + "\\n".join(part.replace("\\", "\\\\").replace('"', '\\"') for part in parts) + '"'
