"""One build of one thing at a time on this machine; the others wait, see how far it is, and look again."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.ports import Reporter

_LOOK = 0.1  # seconds between two looks of who waits
_REMIND = 30  # seconds between two lines that say for how long it has been


@contextmanager
def single_flight(lock: Path, what: str, reporter: Reporter) -> Iterator[Reporter]:
    """Hold the machine's lock for ``what``; it falls with the process, however that ends.

    What is told to the reporter that this gives, those who wait are told too, stages and notes; a line of a step is
    not, since a build may print what it was handed. StoreError where the lock's file cannot be had.
    """
    while True:
        try:
            handle = lock.open("a")
        except OSError as error:
            raise StoreError(f"cannot lock {lock}: {error.strerror}", hint="check who owns it") from error
        with handle:
            if not _taken(handle.fileno()):
                reporter.note(f"another run is making {what}: waiting for it")
                _wait(handle.fileno(), _beside(lock), reporter)
            if not _still_named(handle.fileno(), lock):
                continue  # the cache was cleared meanwhile: whoever comes next locks another file
            told = _Told(_beside(lock), reporter)
            try:
                yield told
            finally:
                told.close()
            return


class _Told:
    """A Reporter that also writes stages and notes where those who wait read them."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self._path = path
        self._reporter = reporter
        self.warn, self.detail, self.log = reporter.warn, reporter.detail, reporter.log
        self.progress, self.event = reporter.progress, reporter.event

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins."""
        self._reporter.stage(name, detail)
        self._write(f"{name}: {detail}" if detail else name)

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._reporter.note(text)
        self._write(text)

    def _write(self, text: str) -> None:
        with suppress(OSError), self._path.open("a", encoding="utf-8") as target:  # nothing rests on it
            target.write(text.replace("\n", " ") + "\n")

    def close(self) -> None:
        """What was told is of no use to who comes next."""
        with suppress(OSError):
            self._path.unlink()


def _beside(lock: Path) -> Path:
    return lock.with_name(lock.name + ".told")


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int, told: Path, reporter: Reporter) -> None:
    """Wait for the lock, and say meanwhile what its holder says."""
    began, heard, reminded = time.monotonic(), 0, 0
    while not _taken(descriptor):
        lines: list[str] = []
        with suppress(OSError):
            lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
        heard = heard if len(lines) >= heard else 0  # another holder began anew
        for line in lines[heard:]:
            reporter.note(f"the other run: {line}")
        heard = len(lines)
        seconds = int(time.monotonic() - began)
        reporter.detail(f"waiting for it: {seconds} s")
        if seconds // _REMIND > reminded:
            reminded = seconds // _REMIND
            reporter.note(f"still waiting, for {seconds} s now")
        time.sleep(_LOOK)


def _still_named(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False
