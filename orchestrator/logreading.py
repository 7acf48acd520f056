"""Reading the log of a run that goes on, piece by piece, while another process spools it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator import logtimes
from orchestrator.logtimes import MIRAGE, Mark

_CHUNK = 1 << 20


class LiveLog:
    """A growing log in a run's folder: ``read`` gives what there is more of, each byte once.

    Follows the spool over its rotations, and an adopter's spool from where the dead process's ends. What was
    rotated away before it was read is told in a line of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._file: BinaryIO | None = None
        self._times: BinaryIO | None = None
        self._rest = b""
        self._marks: list[Mark] = []
        self._at = 0  # the place in the whole output
        self._skip = 0  # what is known already of the file that is read
        self._shift = 0  # from there to the place in what ``read`` gave

    def marks(self) -> Iterator[Mark]:
        """The marks of what was read so far; asked again, it may have more."""
        return _Taking(self._marks)

    def read(self) -> Iterator[bytes]:
        """Everything that came since the last call."""
        while self._open():
            fresh = self._next_piece()  # before the last look: what was renamed away is whole by then
            yield from self._drain()
            if fresh is None:
                return
            gap = self._start_of(fresh) - self._at
            self.close()
            self._file, self._times = fresh
            if gap > 0:
                note = f"\n[mirage: {gap} bytes went by unread here]\n".encode()
                time = self._marks[-1].time if self._marks else 0
                self._marks.append(Mark(self._at + self._shift, time, MIRAGE))
                self._at += gap
                self._shift += len(note) - gap
                yield note

    def _open(self) -> bool:
        """Whether there is a file to read; an adopter's, which begins anew, as soon as there is one."""
        name = "log.adopted" if (self._folder / "log.adopted").exists() else "log"
        if self._file is not None and (name == self._name or name == "log"):
            return True
        path = self._folder / name
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return self._file is not None
        self.close()
        self._name, self._file, self._skip = name, file, self._at
        with suppress(FileNotFoundError):
            self._times = logtimes.beside(path).open("rb", buffering=0)
        return True

    def _next_piece(self) -> tuple[BinaryIO, BinaryIO | None] | None:
        """The newest piece of the tail, where we do not read it yet."""
        path = self._folder / f"{self._name}.tail-newer"
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        assert self._file is not None
        if os.path.sameopenfile(file.fileno(), self._file.fileno()):
            file.close()
            return None
        times: BinaryIO | None = None
        with suppress(FileNotFoundError):
            times = logtimes.beside(path).open("rb", buffering=0)
        return file, times

    def _start_of(self, piece: tuple[BinaryIO, BinaryIO | None]) -> int:
        """The place of a piece's first byte in the whole output, which its first mark tells."""
        if piece[1] is None:
            return self._at
        first = next(logtimes.parse(os.pread(piece[1].fileno(), 200, 0).splitlines(keepends=True)), None)
        return self._at if first is None else first.at

    def _drain(self) -> Iterator[bytes]:
        assert self._file is not None
        while piece := self._file.read(_CHUNK):
            self._take_marks()
            known = min(self._skip, len(piece))
            self._skip -= known
            self._at += len(piece) - known
            if known < len(piece):
                yield piece[known:]

    def _take_marks(self) -> None:
        if self._times is not None:
            *lines, self._rest = (self._rest + self._times.read()).split(b"\n")
            marks = logtimes.parse(line + b"\n" for line in lines)
            self._marks += [mark.moved(self._shift) for mark in marks]

    def close(self) -> None:
        """Let go of its files."""
        for each in (self._file, self._times):
            if each is not None:
                each.close()
        self._file, self._times, self._rest = None, None, b""


class _Taking(Iterator[Mark]):
    """The marks of a list that grows: at its end there may be more later."""

    def __init__(self, marks: list[Mark]) -> None:
        self._marks = marks
        self._place = 0

    def __next__(self) -> Mark:
        if self._place >= len(self._marks):
            raise StopIteration
        self._place += 1
        return self._marks[self._place - 1]
