"""The run's log as we keep it: everything up to a cap, then head and tail, with the exact count of what fell out.

Beside it lies when each part came and on which stream (logtimes.py has the form). The engine's own log files lose
data on rotation and on a full disk, so they only serve a successor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from orchestrator import logtimes
from orchestrator.logtimes import MIRAGE, Mark

HEAD = 32 << 20
TAIL = 16 << 20
# Marks of one piece: what bounds the times of output that changes its stream with every byte. 20 MB or less on disk.
MARKS = 500_000
# Output of one stream that comes within as many milliseconds has one mark.
RESOLUTION = 10


class LogSpool:
    """A log of at most HEAD + TAIL bytes, HEAD + 2 TAIL while it grows; ``close`` joins the pieces.

    One thread writes; another may close meanwhile. What is written after that is counted as dropped.
    """

    def __init__(self, path: Path, *, head: int = HEAD, tail: int = TAIL, marks: int = MARKS) -> None:
        self._tail_limit = tail
        self._marks = marks
        self._older = path.with_name(f"{path.name}.tail-older")
        self._newer = path.with_name(f"{path.name}.tail-newer")
        self._forget_tail()
        self._guard = threading.Lock()
        self._head = _Piece(path, 0, head, marks)
        self._tail: _Piece | None = None
        self._before: _Piece | None = None
        self._closed = False
        self.total = 0
        self.kept = 0
        self.problem: str | None = None

    @property
    def dropped(self) -> int:
        """Bytes that the workflow wrote and that are not kept (known after ``close``)."""
        return self.total - self.kept

    def write(self, data: bytes, stream: str = "stdout") -> None:
        """Add output. A full disk stops keeping, never the run: the loss is counted."""
        with self._guard:
            before, self.total = self.total, self.total + len(data)
            if self.problem is not None or self._closed:
                return
            try:
                self._keep(memoryview(data), logtimes.NUMBERS[stream], before)
            except OSError as error:
                self.problem = error.strerror

    def _keep(self, view: memoryview, stream: int, at: int) -> None:
        now = int(time.time() * 1000)
        while view:
            piece = self._head if self._tail is None else self._tail
            count = piece.write(view, stream, now, at)
            if count == 0:
                self._rotate(at)
            view, at = view[count:], at + count

    def _rotate(self, start: int) -> None:
        if self._tail is not None:
            self._tail.close()
            # The times first: what stands in the newer piece never has those of an older one.
            os.replace(logtimes.beside(self._newer), logtimes.beside(self._older))
            os.replace(self._newer, self._older)
            self._before = self._tail.moved(self._older)
            self._tail = None
        self._tail = _Piece(self._newer, start, self._tail_limit, self._marks)

    def close(self) -> None:
        """Put head, a line that says what fell out, and tail into one file."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            self.kept = self._head.size
            try:
                if self._tail is not None:
                    self._tail.close()
                    self._join(self._tail)
            except OSError as error:
                self.problem = error.strerror
            finally:
                self._forget_tail()
                self._head.close()

    def _join(self, newer: _Piece) -> None:
        """The last TAIL bytes behind the head; ``kept`` counts what arrived, also where the disk is full.

        The tail goes through memory: on a full disk, the room of its files is what the log needs.
        """
        tail, marks = b"", []
        for piece in (self._before, newer):
            if piece is None:
                continue
            skip = 0 if piece is newer else max(0, piece.size + newer.size - self._tail_limit)
            if piece.size > skip:
                shift = piece.start + skip - len(tail)  # from the output's positions to the tail's
                marks += [each.moved(-shift) for each in _from(piece.marks(), piece.start + skip)]
                with piece.path.open("rb") as source:
                    source.seek(skip)
                    tail += source.read(piece.size - skip)
            piece.path.unlink(missing_ok=True)
            logtimes.beside(piece.path).unlink(missing_ok=True)
        lost = self.total - self._head.size - len(tail)
        note = f"\n[mirage: {lost} bytes of log were dropped here]\n".encode() if lost else b""
        place = self._head.size
        if note:
            self._head.mark(Mark(place, int(time.time() * 1000), MIRAGE))
            self._head.append(note)
        for mark in marks:
            self._head.mark(mark.moved(place + len(note)))
        view = memoryview(tail)
        while view:
            count = self._head.append(view)
            self.kept += count
            view = view[count:]

    def _forget_tail(self) -> None:
        for path in (self._older, self._newer):
            for each in (path, logtimes.beside(path)):
                with suppress(OSError):
                    each.unlink(missing_ok=True)

    def __enter__(self) -> LogSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Piece:
    """One file of the spool with its times; ``start`` is the place of its first byte in the whole output.

    It is full at ``limit`` bytes, and also where it has as many marks as it may have.
    """

    def __init__(self, path: Path, start: int, limit: int, marks: int) -> None:
        self.path = path
        self.start = start
        self.size = 0
        self._limit = limit
        self._marks_left = marks
        self._last = (-1, 0)
        self._file: BinaryIO = path.open("wb", buffering=0)
        try:
            self._times: BinaryIO | None = logtimes.beside(path).open("wb", buffering=0)
        except BaseException:
            self._file.close()
            raise

    def write(self, view: memoryview, stream: int, now: int, at: int) -> int:
        """Add what fits; gives how much that was, 0 where the piece is full."""
        if self.size >= self._limit:
            return 0
        if stream != self._last[0] or not 0 <= now - self._last[1] < RESOLUTION:
            if self._marks_left == 0:
                self._limit = self.size
                return 0
            self._marks_left -= 1
            self._last = (stream, now)
            self.mark(Mark(at, now, stream))
        count = os.write(self._file.fileno(), view[: self._limit - self.size])
        self.size += count
        return count

    def mark(self, mark: Mark) -> None:
        """Add a mark; a disk without room for it ends the times, not the log."""
        if self._times is None:
            return
        try:
            self._times.write(mark.encode())
        except OSError:
            self._times.close()
            self._times = None

    def append(self, data: bytes | memoryview) -> int:
        """Add bytes whatever the limit is."""
        return os.write(self._file.fileno(), data)

    def marks(self) -> Iterator[Mark]:
        """The marks that it has."""
        return logtimes.read(logtimes.beside(self.path))

    def moved(self, path: Path) -> _Piece:
        """The piece, closed and renamed."""
        self.path = path
        return self

    def close(self) -> None:
        """Close its files."""
        self._file.close()
        if self._times is not None:
            self._times.close()


def _from(marks: Iterator[Mark], start: int) -> list[Mark]:
    """The marks of what stands at ``start`` and behind it."""
    found: list[Mark] = []
    for mark in marks:
        if mark.at <= start:
            found = [Mark(start, mark.time, mark.stream)]
        else:
            found.append(mark)
    return found
