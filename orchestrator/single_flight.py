"""One build of one thing at a time on this machine; the others wait, are told so, and look again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.ports import Reporter


@contextmanager
def single_flight(lock: Path, what: str, reporter: Reporter) -> Iterator[None]:
    """Hold the machine's lock for ``what``; it falls with the process, however that ends.

    StoreError where the lock's file cannot be had.
    """
    while True:
        try:
            handle = lock.open("a")
        except OSError as error:
            raise StoreError(f"cannot lock {lock}: {error.strerror}", hint="check who owns it") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reporter.note(f"another run is making {what}: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _still_named(handle.fileno(), lock):
                continue  # the cache was cleared meanwhile: whoever comes next locks another file
            yield
            return


def _still_named(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False
