"""When each part of a log came and on which stream: one line for each part, beside the log.

`PLACE TIME STREAM`: the place of the part's first byte in the log, milliseconds since the epoch, and 1 for stdout, 2
for stderr, 0 for what Mirage wrote itself. A part goes on to the next one's place. docs/store.md tells users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

MIRAGE = 0
NUMBERS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True)
class Mark:
    """The beginning of a part: its place in bytes, its time in milliseconds since the epoch, its stream's number."""

    at: int
    time: int
    stream: int

    def encode(self) -> bytes:
        """Its line."""
        return b"%d %d %d\n" % (self.at, self.time, self.stream)

    def moved(self, by: int) -> Mark:
        """The same part, ``by`` bytes further on."""
        return Mark(self.at + by, self.time, self.stream)


def beside(log: Path) -> Path:
    """Where the times of a log lie."""
    return log.with_name(f"{log.name}.times")


def read(path: Path) -> Iterator[Mark]:
    """The marks in a file; none where there is none."""
    try:
        with path.open("rb") as source:
            yield from parse(source)
    except FileNotFoundError:
        return


def parse(lines: Iterable[bytes]) -> Iterator[Mark]:
    """Marks from their lines; a torn last line is passed over."""
    for line in lines:
        words = line.split()
        if line.endswith(b"\n") and len(words) == 3 and all(word.isdigit() for word in words):
            yield Mark(int(words[0]), int(words[1]), int(words[2]))


class Printer:
    """Turns a log's bytes, as they come, into what `mirage logs` prints: one stream only, times before lines.

    ``marks`` may grow while it is used. What has no mark is of no known stream and time: it is always shown.
    """

    def __init__(self, marks: Iterator[Mark], *, stream: str | None = None, times: bool = False) -> None:
        self._marks = marks
        self._wanted = None if stream is None else NUMBERS[stream]
        self._times = times
        self._at = 0
        self._now: Mark | None = None
        self._next: Mark | None = None
        self._open: dict[int, bool] = {}

    def show(self, data: bytes) -> bytes:
        """What is to be printed of the next bytes of the log."""
        if self._wanted is None and not self._times:
            return data
        shown = bytearray()
        view = memoryview(data)
        while view:
            self._step()
            count = len(view) if self._next is None else min(len(view), self._next.at - self._at)
            shown += self._part(bytes(view[:count]))
            view, self._at = view[count:], self._at + count
        return bytes(shown)

    def _step(self) -> None:
        """Make ``_now`` the mark of the place where we are."""
        while True:
            if self._next is None:
                self._next = next(self._marks, None)
            if self._next is None or self._next.at > self._at:
                return
            self._now, self._next = self._next, None

    def _part(self, part: bytes) -> bytes:
        number = MIRAGE if self._now is None else self._now.stream
        if self._wanted is not None and number not in (self._wanted, MIRAGE):
            return b""
        if not self._times:
            return part
        stamp = b"-" if self._now is None else stamp_of(self._now.time).encode()
        lines = part.split(b"\n")
        shown = bytearray()
        for place, line in enumerate(lines):
            last = place == len(lines) - 1
            if last and not line:
                break
            shown += line if self._open.get(number) else stamp + b" " + line
            self._open[number] = last
            if not last:
                shown += b"\n"
        return bytes(shown)


def stamp_of(milliseconds: int) -> str:
    """A time in UTC, as RFC 3339 has it, with milliseconds."""
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
