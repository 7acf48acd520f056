"""The run's log as we keep it: everything up to a cap, then head and tail, with the exact count of what fell out.

The engine's own log files lose data on rotation and on a full disk, so they only serve a successor.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

HEAD = 32 << 20
TAIL = 16 << 20


class LogSpool:
    """A log of at most HEAD + 2 TAIL bytes on disk; one thread writes, ``close`` puts the pieces together."""

    def __init__(self, path: Path, *, head: int = HEAD, tail: int = TAIL) -> None:
        self._path = path
        self._head_limit = head
        self._tail_limit = tail
        self._file = path.open("wb", buffering=0)
        self._head = 0
        self._older = path.with_suffix(".tail-older")
        self._newer = path.with_suffix(".tail-newer")
        self._tail = 0
        self._tail_file: int | None = None
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
        self.total += len(data)
        if self.problem is not None:
            return
        try:
            room = self._head_limit - self._head
            if room > 0:
                self._head += self._write_all(self._file.fileno(), data[:room])
            if len(data) > room:
                self._write_tail(data[max(room, 0) :])
        except OSError as error:
            self.problem = error.strerror

    def _write_tail(self, data: bytes) -> None:
        if self._tail_file is None or self._tail >= self._tail_limit:
            if self._tail_file is not None:
                os.close(self._tail_file)
                os.replace(self._newer, self._older)
            self._tail_file = os.open(self._newer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self._tail = 0
        self._tail += self._write_all(self._tail_file, data)

    @staticmethod
    def _write_all(descriptor: int, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        return len(data)

    def close(self) -> None:
        """Put head, a line that says what fell out, and tail into one file."""
        if self._closed:
            return
        self._closed = True
        self.kept = self._head
        if self._tail_file is not None:
            os.close(self._tail_file)
            tails = [path for path in (self._older, self._newer) if path.exists()]
            size = sum(path.stat().st_size for path in tails)
            with suppress(OSError):
                lost = self.total - self._head - size
                if lost:
                    os.write(
                        self._file.fileno(), f"\n[mirage: {lost} bytes of log were dropped here]\n".encode()
                    )
                for path in tails:
                    with path.open("rb") as source:
                        while piece := source.read(1 << 20):
                            self.kept += self._write_all(self._file.fileno(), piece)
            for path in tails:
                path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> LogSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
