"""The run's log as we keep it: everything up to a cap, then head and tail, with the exact count of what fell out.

The engine's own log files lose data on rotation and on a full disk, so they only serve a successor.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

HEAD = 32 << 20
TAIL = 16 << 20


class LogSpool:
    """A log of at most HEAD + TAIL bytes, HEAD + 2 TAIL while it grows; ``close`` joins the pieces.

    One thread writes; another may close meanwhile. What is written after that is counted as dropped.
    """

    def __init__(self, path: Path, *, head: int = HEAD, tail: int = TAIL) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self._older = path.with_name(f"{path.name}.tail-older")
        self._newer = path.with_name(f"{path.name}.tail-newer")
        for left_behind in (self._older, self._newer):
            left_behind.unlink(missing_ok=True)
        self._guard = threading.Lock()
        self._file = path.open("wb", buffering=0)
        self._tail_file: BinaryIO | None = None
        self._head = 0
        self._tail = 0
        self._older_size = 0
        self._closed = False
        self.total = 0
        self.kept = 0
        self.problem: str | None = None

    @property
    def dropped(self) -> int:
        """Bytes that the workflow wrote and that are not kept (known after ``close``)."""
        return self.total - self.kept

    def write(self, data: bytes) -> None:
        """Add output. A full disk stops keeping, never the run: the loss is counted."""
        with self._guard:
            self.total += len(data)
            if self.problem is not None or self._closed:
                return
            try:
                self._keep(memoryview(data))
            except OSError as error:
                self.problem = error.strerror

    def _keep(self, view: memoryview) -> None:
        while view and self._head < self._head_limit:
            count = os.write(self._file.fileno(), view[: self._head_limit - self._head])
            self._head += count
            view = view[count:]
        while view:
            if self._tail_file is None or self._tail == self._tail_limit:
                self._rotate()
            assert self._tail_file is not None
            count = os.write(self._tail_file.fileno(), view[: self._tail_limit - self._tail])
            self._tail += count
            view = view[count:]

    def _rotate(self) -> None:
        if self._tail_file is not None:
            self._tail_file.close()
            os.replace(self._newer, self._older)
            self._tail_file, self._tail, self._older_size = None, 0, self._tail
        self._tail_file = self._newer.open("wb", buffering=0)

    def close(self) -> None:
        """Put head, a line that says what fell out, and tail into one file."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            if self._tail_file is not None:
                self._tail_file.close()
            self.kept = self._head
            try:
                self._join()
            except OSError as error:
                self.problem = error.strerror
            finally:
                for path in (self._older, self._newer):
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
                self._file.close()

    def _join(self) -> None:
        """The last TAIL bytes behind the head; ``kept`` counts what arrived, also where the disk is full.

        The tail goes through memory: on a full disk, the room of its files is what the log needs.
        """
        skip = max(0, min(self._older_size, self._older_size + self._tail - self._tail_limit))
        tail = b""
        for path, size, start in ((self._older, self._older_size, skip), (self._newer, self._tail, 0)):
            if size > start:
                with path.open("rb") as source:
                    source.seek(start)
                    tail += source.read(size - start)
            path.unlink(missing_ok=True)
        lost = self.total - self._head - len(tail)
        if lost:
            os.write(self._file.fileno(), f"\n[mirage: {lost} bytes of log were dropped here]\n".encode())
        view = memoryview(tail)
        while view:
            count = os.write(self._file.fileno(), view)
            self.kept += count
            view = view[count:]

    def __enter__(self) -> LogSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
