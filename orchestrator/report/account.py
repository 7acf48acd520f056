"""What a report tells of one run, read from the store once; draws nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.catalog.row import Row
from orchestrator.errors import MirageError
from orchestrator.judging import verdicts
from orchestrator.judging.verdicts import Told
from orchestrator.questions.diff import leaves
from orchestrator.questions.lineage import Edge, Graph, Node
from orchestrator.report import series
from orchestrator.report.pictures import Album, Picture
from orchestrator.report.series import Series

_T = TypeVar("_T")
_LOG_LIMIT = 64 << 20
_TAIL = 3000  # characters of a log's end
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # colours and movements (ECMA-48 section 5.4)


@dataclass(frozen=True)
class Account:
    """One run. ``config`` and ``packages`` are names with values; ``notes`` say what could not be read."""

    letter: str
    colour: int
    row: Row
    told: dict[str, Any]
    config: tuple[tuple[str, Json], ...]
    packages: tuple[tuple[str, str], ...]
    series: tuple[Series, ...]
    pictures: tuple[Picture, ...]
    verdicts: tuple[Told, ...]
    log_end: str
    committed_as: str | None
    graph: Graph
    notes: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.row.run_id

    def curve(self, metric: str) -> Series | None:
        """The course of one metric."""
        return next((each for each in self.series if each.name == metric), None)


def letter_of(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    found = ""
    while number >= 0:
        found = chr(ord("A") + number % 26) + found
        number = number // 26 - 1
    return found


def gather(
    rows: list[Row], lineage: Callable[[str], Graph], committed_as: dict[str, str]
) -> tuple[Account, ...]:
    """The runs of a report. ``lineage`` gives where a run comes from. Raises StoreError for a damaged record."""
    albums: dict[str, Album] = {}
    found = []
    for number, row in enumerate(rows):
        album = albums.setdefault(row.store.location, Album(row.store))
        notes: list[str] = []
        told = row.summary()
        courses, note = series.read(row.store, row.byproduct("metrics.jsonl"))
        notes += [note] if note else []
        config = _or_note(_config, row, "The config", notes)
        packages = _or_note(_packages, row, "The list of packages", notes)
        judged = _or_note(_verdicts, row, "A verdict", notes)
        end = "" if told["status"] == "succeeded" else _log_end(row, notes)
        found.append(
            Account(
                letter=letter_of(number),
                colour=number,
                row=row,
                told=told,
                config=config,
                packages=packages,
                series=courses,
                pictures=album.of_outputs(row.result["outputs"]),
                verdicts=judged,
                log_end=end,
                committed_as=committed_as.get(row.run_id),
                graph=_with_outputs(lineage(row.run_id), row),
                notes=tuple(notes),
            )
        )
    return tuple(found)


def _or_note(read: Callable[[Row], tuple[_T, ...]], row: Row, what: str, notes: list[str]) -> tuple[_T, ...]:
    """What can be read; else nothing, and a note: one lost blob must not cost the report."""
    try:
        return read(row)
    except MirageError as error:
        notes.append(f"{what} cannot be read: {error.message}.")
        return ()


def _config(row: Row) -> tuple[tuple[str, Json], ...]:
    return tuple(leaves(row.config).items())


def _verdicts(row: Row) -> tuple[Told, ...]:
    return tuple(verdicts.of_run(row.store, row.run_id))


def _packages(row: Row) -> tuple[tuple[str, str], ...]:
    digest = row.byproduct("environment.json")
    items = [] if digest is None else canonical.decode(read_verified(row.store, digest))
    return tuple(
        (str(item["name"]), str(item["version"]))
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    )


def _log_end(row: Row, notes: list[str]) -> str:
    digest = row.byproduct("log")
    if digest is None:
        return ""
    try:
        data = read_verified(row.store, digest, limit=_LOG_LIMIT)
    except MirageError as error:
        notes.append(f"The log cannot be read: {error.message}.")
        return ""
    # a colour sequence may take many bytes, a character four
    text = _TERMINAL.sub("", data[-8 * _TAIL :].decode("utf-8", "replace")).replace("\r\n", "\n")
    return text.replace("\r", "\n")[-_TAIL:].strip("\n")


def _with_outputs(graph: Graph, row: Row) -> Graph:
    """A lineage with what the run saved, from its own result."""
    known = {node.id for node in graph.nodes}
    outputs = {str(item["id"]): item for item in row.result["outputs"]}
    nodes = tuple(
        Node(name, "artifact", str(item["digest"]), str(item["format"]))
        for name, item in outputs.items()
        if name not in known
    )
    edges = tuple(Edge(row.run_id, name, "saved") for name in outputs)
    return Graph(graph.root, (*graph.nodes, *nodes), graph.up, (*graph.down, *edges))
