"""The table of faults: what the tests of crashes, power cuts and races tried and found, in one place.

A test takes the fixture `counted`, names its figure and counts in it; all that was counted is summed over the tests
(and over the processes of pytest-xdist) and printed at the end. A count of harm that is not zero fails its test.
Where MIRAGE_STRESS_TABLE names a file, each test adds a line of JSON to it, and the table is that of the whole file: a
long series may be run in parts. `python -m tests.figures FILE...` prints the table of such files.

How much is tried is told by the environment: see "Stress" in docs/development.md.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HARM = ("lost", "corrupt", "duplicates", "orphans")
_PROPERTY = "figure"
_PREFIX = "MIRAGE_STRESS_"


def how_many(name: str, release: int) -> int:
    """How many trials of a kind: MIRAGE_STRESS_<NAME>, else what a release asks for."""
    return int(os.environ.get(f"{_PREFIX}{name.upper()}", str(release)))


def dice(salt: str = "") -> random.Random:
    """Chance that can be had again: MIRAGE_STRESS_SEED (default 1), and the name of who throws."""
    return random.Random(f"{seed()} {salt}")


@dataclass
class Counts:
    """What one test tried of a figure, and the harm that it found."""

    figure: str
    trials: int = 0
    lost: int = 0
    corrupt: int = 0
    duplicates: int = 0
    orphans: int = 0
    bitten: int = 0  # of controls and mutations: how many were found out
    failed: int = 0
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)

    def found(self, harm: str, what: str) -> None:
        """Count a harm, one of HARM."""
        setattr(self, harm, getattr(self, harm) + 1)
        self.said.append(f"{harm}: {what}")

    def unless(self, good: bool, harm: str, what: str) -> None:
        """Count a harm where something that must hold does not."""
        if not good:
            self.found(harm, what)


Counted = Callable[[str], Counts]


@pytest.fixture
def counted(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Counted]:
    """Gives a Counts for a figure, which ends in the table; fails the test where harm was counted."""
    made: list[Counts] = []

    def make(figure: str) -> Counts:
        counts = Counts(figure)
        made.append(counts)
        return counts

    began = time.monotonic()
    yield make
    for counts in made:
        counts.seconds = (time.monotonic() - began) / len(made)
        record_property(_PROPERTY, json.dumps(asdict(counts)))
    said = [line for counts in made for line in counts.said]
    assert not said, "\n".join([f"{request.node.nodeid} found harm:", *said[:50]])


class Table:
    """Sums what the tests reported; a plugin of pytest, in the process that prints."""

    def __init__(self, place: str | None = None) -> None:
        self._place = Path(place) if place else None
        self.rows: dict[str, Counts] = {}
        self.machines: set[str] = set()
        self._failed: set[str] = set()
        self._said = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test counted, which its last report carries."""
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when != "teardown":
            return
        for name, value in report.user_properties:
            if name == _PROPERTY:
                counts = Counts(**json.loads(str(value)))
                counts.failed = int(report.nodeid in self._failed)
                self._said = True
                if self._place is None:
                    self._add(counts)
                else:
                    self._keep(self._place, counts, report.nodeid)

    def _keep(self, place: Path, counts: Counts, test: str) -> None:
        """At once, so that a series that is broken off keeps what it had."""
        place.parent.mkdir(parents=True, exist_ok=True)
        line = {**asdict(counts), "test": test, "seed": seed(), "machine": machine()}
        with place.open("a") as sink:
            sink.write(json.dumps(line) + "\n")

    def read(self, place: Path) -> None:
        """Add the lines of a file."""
        for text in place.read_text().splitlines():
            line = json.loads(text)
            self.machines.add(line["machine"])
            self._add(Counts(**{each.name: line[each.name] for each in fields(Counts)}))

    def _add(self, counts: Counts) -> None:
        row = self.rows.setdefault(counts.figure, Counts(counts.figure))
        for name in ("trials", *HARM, "bitten", "failed", "seconds"):
            setattr(row, name, getattr(row, name) + getattr(counts, name))

    def lines(self) -> list[str]:
        """The table, as Markdown."""
        head = ("figure", "trials", *HARM, "found out", "failed tests", "time")
        names = ("trials", *HARM, "bitten", "failed")
        body = [
            (row.figure, *(f"{getattr(row, name):,}" for name in names), f"{row.seconds:,.0f} s")
            for row in sorted(self.rows.values(), key=lambda row: row.figure)
        ]
        widths = [max(len(row[at]) for row in (head, *body)) for at in range(len(head))]

        def line(cells: tuple[str, ...]) -> str:
            first, *rest = (
                cells[at].ljust(width) if at == 0 else cells[at].rjust(width)
                for at, width in enumerate(widths)
            )
            return f"| {' | '.join((first, *rest))} |"

        rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
        return [*sorted(self.machines), line(head), rule, *map(line, body)]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print it: of this run, or of all that MIRAGE_STRESS_TABLE has."""
        if not self._said:
            return
        if self._place is not None:
            self.read(self._place)
        terminalreporter.section(f"faults (seed {seed()})")
        for line in self.lines():
            terminalreporter.write_line(line)


def seed() -> str:
    """The seed of what is left to chance."""
    return os.environ.get(f"{_PREFIX}SEED", "1")


@cache
def machine() -> str:
    """What the trials were on; a guest without an engine says so."""
    import docker
    from docker.errors import DockerException

    try:
        engine = f"Docker {docker.from_env().version()['Version']}"
    except DockerException:
        engine = "no engine"
    return f"{engine}, Linux {os.uname().release}, {os.cpu_count()} cores"


def main(places: list[str]) -> None:
    """Print the table of some files."""
    table = Table()
    for place in places:
        table.read(Path(place))
    print("\n".join(table.lines()))


if __name__ == "__main__":
    main(sys.argv[1:])
