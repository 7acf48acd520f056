"""How far a long step is, told to a reporter from a thread of its own: whoever works never waits for whoever reads.

A step that is done within a moment is told once, at its end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.ports import Reporter

# Seconds from a step's beginning to the first word of it, and between two words.
FIRST = 0.5
EVERY = 0.2


class Meter:
    """Counts the bytes of one step; ``total`` is None where nobody knows it beforehand."""

    def __init__(self, reporter: Reporter, step: str, total: int | None = None) -> None:
        self._reporter = reporter
        self._step = step
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._source: int | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Meter:
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._reporter.progress(self._step, self._done, self._total, ended=True)

    def add(self, size: int) -> None:
        """So many more bytes are done; from any thread."""
        with self._lock:
            self._done += size

    def at(self, done: int, total: int | None) -> None:
        """So many bytes are done in all, of as many as are known of by now."""
        with self._lock:
            self._done, self._total = done, total

    @contextmanager
    def reading(self, descriptor: int) -> Iterator[None]:
        """While this is entered, the position in an open file counts; afterwards the whole of what was read."""
        with self._lock:
            self._source = descriptor
        try:
            yield
        finally:
            with self._lock:
                self._source = None
                self._done += os.lseek(descriptor, 0, os.SEEK_CUR)

    def counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, each counted when the next one is asked for."""
        for piece in pieces:
            yield piece
            self.add(len(piece))

    def _tell(self) -> None:
        wait = FIRST
        while not self._over.wait(wait):
            wait = EVERY
            with self._lock:
                here = 0 if self._source is None else os.lseek(self._source, 0, os.SEEK_CUR)
                done, total = self._done + here, self._total
            self._reporter.progress(self._step, done, total)


@contextmanager
def measured(reporter: Reporter | None, step: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Gives what is to be told of each stretch of bytes that is done; nobody hears it where there is nothing to do."""
    if reporter is None or total == 0:
        yield lambda size: None
        return
    with Meter(reporter, step, total) as meter:
        yield meter.add


@contextmanager
def phase(reporter: Reporter | None, name: str) -> Iterator[None]:
    """Tell machines when a part of a run begins and ends."""
    if reporter is None:
        yield
        return
    begun = time.monotonic()
    reporter.event("phase", {"name": name, "state": "begin"})
    try:
        yield
    finally:
        seconds = round(time.monotonic() - begun, 4)
        reporter.event("phase", {"name": name, "state": "end", "seconds": seconds})
