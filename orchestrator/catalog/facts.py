"""A run's flat object as facts, a path and a value each, in SQLite's own order of values.

SQLite orders numbers before text before blobs (sqlite.org/datatype3.html, section 4.1), so a range of numbers or of
strings is a range of the index. What is neither is a blob that says what stands there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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


def facts_of(summary: dict[str, Json], config: dict[str, Json]) -> list[tuple[str, int, tuple[Fact, ...]]]:
    """Every path of a run with what it is like and its values. A path without a value is not told."""
    found: list[tuple[str, int, tuple[Fact, ...]]] = []
    _take(found, "", summary)
    metrics = summary.get("metrics")
    if isinstance(metrics, dict):
        _take(found, "metrics.", metrics)
    pending = [("config.", config)]
    while pending:
        above, items = pending.pop()
        # no path leads to a name with a dot in it
        items = {name: inner for name, inner in items.items() if "." not in name}
        _take(found, above, items)
        pending += [(f"{above}{name}.", inner) for name, inner in items.items() if isinstance(inner, dict)]
    return found


def _take(found: list[tuple[str, int, tuple[Fact, ...]]], above: str, items: dict[str, Json]) -> None:
    for name, value in items.items():
        if type(value) is str or type(value) is int:  # nearly all are: an index is made of millions
            found.append((above + name, PLAIN, (value,)))
        else:
            found.extend(_one(above + name, value))


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
