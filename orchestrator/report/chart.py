"""A metric of one or more runs as a line chart: SVG with no script, sizes in user units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log10
from sys import float_info
from typing import TypeAlias

from orchestrator.report.markup import Markup, element, middle
from orchestrator.report.series import Series

Placer: TypeAlias = Callable[[float, float], tuple[float, float]]

COLOURS = 8
_LARGEST = float_info.max
_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 10, 26


@dataclass(frozen=True)
class Curve:
    """One run's course: ``letter`` names the run, ``colour`` counts from 0."""

    letter: str
    colour: int
    series: Series


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]


def axis(low: float, high: float, wanted: int) -> _Axis:
    """An axis over the values with round ticks: steps of 1, 2 or 5 times a power of ten."""
    if low == high:
        room = abs(low) * 0.1 or 1.0
        low, high = max(low - room, -_LARGEST), min(high + room, _LARGEST)
    # A span that a double cannot hold is measured in parts.
    span = high / wanted - low / wanted
    step = 10.0 ** floor(log10(span)) if span else 0.0
    if not step or step == inf:
        return _Axis(low, high, (low, high))
    step *= next((each for each in (1.0, 2.0, 5.0) if each * step >= span), 10.0)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    if last - first > 3 * wanted or first > last:
        return _Axis(low, high, (low, high))
    ticks = (at * step for at in range(int(first), int(last) + 1))
    # Where a double's last digit is about as wide as the axis, a product can lie outside of it.
    inside = tuple(each for each in ticks if low - span * 1e-6 <= each <= high + span * 1e-6)
    return _Axis(low, high, inside or (low, high))


def tick(value: float) -> str:
    """A number beside an axis: few digits."""
    if value == 0:
        return "0"
    shown = f"{value:.4g}"
    return shown.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def draw(name: str, curves: Sequence[Curve]) -> Markup:
    """The chart; its title tells a reader without sight what is in it."""
    real = [(x, y) for curve in curves for x, y in curve.series.points if y is not None]
    xs, ys = [x for x, _ in real], [y for _, y in real]
    across, up = axis(min(xs), max(xs), 4), axis(min(ys), max(ys), 4)
    across = _Axis(min(xs), max(xs), across.ticks) if min(xs) < max(xs) else across

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + _share(x, across) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - _share(y, up) * (_HEIGHT - _TOP - _BOTTOM),
        )

    grid: list[Markup] = []
    for value in up.ticks:
        _, y = place(across.low, value)
        grid.append(
            element("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}")
        )
        grid.append(element("text", tick(value), class_="tick end", x=_LEFT - 6, y=f"{y + 3.5:.1f}"))
    for value in across.ticks:
        if across.low <= value <= across.high:
            x, _ = place(value, up.low)
            grid.append(element("text", tick(value), class_="tick mid", x=f"{x:.1f}", y=_HEIGHT - 8))
    lines = [part for curve in curves for part in _line(curve, place)]
    ends = _ends(curves, place) if len(curves) > 1 else []
    told = "; ".join(f"{curve.letter}: {_course(curve.series)}" for curve in curves)
    return element(
        "svg",
        element("title", f"{middle(name, 80)}. {told}"),
        grid,
        lines,
        ends,
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )


def _share(value: float, along: _Axis) -> float:
    width = along.high / 2 - along.low / 2
    return (value / 2 - along.low / 2) / width if width else 0.5


def _line(curve: Curve, place: Placer) -> list[Markup]:
    """The stretches between gaps; a value alone is a dot."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in curve.series.points:
        if y is None:
            stretches.append([])
        else:
            stretches[-1].append(place(x, y))
    look = f"line c{curve.colour % COLOURS}" + (" dashed" if curve.colour >= COLOURS else "")
    found = []
    for stretch in stretches:
        if len(stretch) == 1:
            x, y = stretch[0]
            found.append(
                element("circle", class_=f"dot c{curve.colour % COLOURS}", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3)
            )
        elif stretch:
            found.append(
                element("polyline", class_=look, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in stretch))
            )
    return found


def _ends(curves: Sequence[Curve], place: Placer) -> list[Markup]:
    """Each run's letter at the end of its line, moved apart where they would meet; none where there is no room."""
    wanted = []
    for curve in curves:
        last = next(((x, y) for x, y in reversed(curve.series.points) if y is not None), None)
        if last is not None:
            wanted.append((place(*last), curve))
    if len(wanted) > 10:
        return []
    found, lowest = [], -inf
    for (x, y), curve in sorted(wanted, key=lambda each: each[0][1]):
        y = lowest = max(y + 4, lowest + 11)
        found.append(
            element(
                "text",
                curve.letter,
                class_=f"letter c{curve.colour % COLOURS}",
                x=f"{x + 6:.1f}",
                y=f"{y:.1f}",
            )
        )
    return found


def _course(series: Series) -> str:
    real = [y for _, y in series.points if y is not None]
    return f"{series.count} values from {tick(real[0])} to {tick(real[-1])}, between {tick(min(real))} and {tick(max(real))}"
