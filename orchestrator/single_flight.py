"""One build of one thing at a time on this machine; the others wait, are told so, and look again."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.ports import Reporter


@contextmanager
def single_flight(lock: Path, what: str, reporter: Reporter) -> Iterator[None]:
    """Hold the machine's lock for ``what``; it falls with the process, however that ends."""
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.note(f"another run is making {what}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
