"""A run's flat object as facts, a path and a value each, in SQLite's own order of values.

SQLite orders numbers before text before blobs (sqlite.org/datatype3.html, section 4.1), so a range of numbers or of
strings is a range of the index. What is neither is a blob that says what stands there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from orchestrator.canonical import Json

Fact: TypeAlias = "int | float | str | bytes"

TRUE, FALSE = b"\x01", b"\x00"
OTHER = b"\x02"  # an object, a list in a list: there, and equal to nothing
NOTHING = b"\x03"  # a null in a list
EMPTY = b"\x04"  # a list without elements
# A list with more elements is not taken in: its path is then answered from the documents.
LONGEST_LIST = 256

PLAIN, MIXED, PARTIAL = (
    0,
    1,
    2,
)  # of a path: numbers and strings only; also others, or lists; not all of it is here


def facts_of(
    summary: dict[str, Json], config: dict[str, Json]
) -> Iterator[tuple[str, int, tuple[Fact, ...]]]:
    """Every path of a run with what it is like and its values. A path without a value is not told."""
    for name, value in summary.items():
        yield from _one(name, value)
    metrics = summary.get("metrics")
    if isinstance(metrics, dict):
        for name, value in metrics.items():
            yield from _one(f"metrics.{name}", value)
    yield from _below("config", config)


def _below(path: str, value: dict[str, Json]) -> Iterator[tuple[str, int, tuple[Fact, ...]]]:
    pending = [(path, value)]
    while pending:
        above, items = pending.pop()
        for name, inner in items.items():
            if "." in name:
                continue  # no path leads to it
            yield from _one(f"{above}.{name}", inner)
            if isinstance(inner, dict):
                pending.append((f"{above}.{name}", inner))


def _one(path: str, value: Json) -> Iterator[tuple[str, int, tuple[Fact, ...]]]:
    if value is None:
        return
    if not isinstance(value, list):
        fact = _fact(value)
        yield path, MIXED if isinstance(fact, bytes) else PLAIN, (fact,)
    elif len(value) > LONGEST_LIST:
        yield path, PARTIAL, (OTHER,)
    else:
        yield path, MIXED, tuple(dict.fromkeys(map(_fact, value))) or (EMPTY,)


def _fact(value: Json) -> Fact:
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if value is None:
        return NOTHING
    if isinstance(value, str) or (isinstance(value, int | float) and not math.isnan(value)):
        return value
    return OTHER


def is_direct(path: str) -> bool:
    """Whether the facts know a path: those that count into a list (`inputs.0`) they do not."""
    first, *rest = path.split(".")
    return first == "metrics" or not any(part.isdecimal() for part in rest)


def paths_of(found: Iterable[tuple[str, int, tuple[Fact, ...]]]) -> dict[str, int]:
    """The paths, each with the worst that it is like."""
    kinds: dict[str, int] = {}
    for path, kind, _ in found:
        kinds[path] = max(kind, kinds.get(path, PLAIN))
    return kinds
