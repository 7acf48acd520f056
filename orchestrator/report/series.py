"""The course of a run's metrics: read back from its metrics.jsonl, and thinned to what a curve can show."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from orchestrator.artifacts.version import read_verified
from orchestrator.digest import Digest
from orchestrator.errors import StoreError
from orchestrator.ports import Store

MOST_BYTES = 64 << 20
POINTS = 300  # of one curve; twice as many where each stretch has a peak and a dip


@dataclass(frozen=True)
class Series:
    """A metric's values in their order: (step, value); None for what was no number."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    count: int
    by_step: bool


def read(store: Store, digest: Digest | None) -> tuple[tuple[Series, ...], str | None]:
    """All metrics by name, in the order in which they first came, and what could not be read."""
    if digest is None:
        return (), None
    try:
        data = read_verified(store, digest, limit=MOST_BYTES)
    except StoreError as error:
        return (), f"The course of the metrics is not shown: {error.message}."
    found: dict[str, list[tuple[int | None, float | None]]] = {}
    for line in data.splitlines():
        for name, step, value in _values(line):
            found.setdefault(name, []).append((step, value))
    return tuple(_series(name, values) for name, values in found.items()), None


def _values(line: bytes) -> list[tuple[str, int | None, float | None]]:
    """One line's values; none of a line that is not of the contract (docs/contract.md)."""
    try:
        item = json.loads(line)
        step, values = item.get("step"), item["values"]
        step = step if type(step) is int and abs(step) < 2**53 else None
        return [(str(name), step, _number(value)) for name, value in values.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _number(value: object) -> float | None:
    try:
        number = float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if number is not None and isfinite(number) else None


def _series(name: str, values: list[tuple[int | None, float | None]]) -> Series:
    # Steps say the place only if each value has one and they go up: else the values' own order does.
    steps = [step for step, _ in values if step is not None]
    by_step = len(steps) == len(values) and all(a < b for a, b in pairwise(steps))
    points = [
        (float(step if by_step and step is not None else at), value)
        for at, (step, value) in enumerate(values)
    ]
    return Series(name, tuple(_thinned(points)), len(points), by_step)


def _thinned(points: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Of each stretch its lowest and highest value, in their order, and a gap where it had one."""
    if len(points) <= 2 * POINTS:
        return points
    kept = [points[0]]
    for at in range(POINTS):
        stretch = points[at * len(points) // POINTS : (at + 1) * len(points) // POINTS]
        real = [(x, y) for x, y in stretch if y is not None]
        gap = next((point for point in stretch if point[1] is None), None)
        chosen = {min(real, key=lambda each: each[1]), max(real, key=lambda each: each[1])} if real else set()
        kept += sorted([*chosen, *([gap] if gap else ())], key=lambda each: each[0])
    kept.append(points[-1])
    return list(dict.fromkeys(kept))
