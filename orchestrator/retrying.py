"""Which run is made in the place of which, on this machine: the file `next` in a run's folder.

Its follower holds it locked from before the first run is closed until the next one has begun, so that whoever waits for
the first, or cancels it, knows that there is more to come. Records say the same for all machines (`retryOf`).
"""

from __future__ import annotations

import fcntl
from typing import BinaryIO

from orchestrator.errors import MirageError
from orchestrator.journal import RunFolders
from orchestrator.reference import RunId, parse_run_id

_NAME = "next"


def announce(folders: RunFolders, run_id: RunId, following: RunId) -> BinaryIO:
    """Say that a run is about to be made again under another id; let go of what is given when that one has begun."""
    handle = (folders.of(run_id) / _NAME).open("wb", buffering=0)
    fcntl.flock(handle, fcntl.LOCK_EX)
    handle.write(following.encode())
    return handle


def last(folders: RunFolders, run_id: RunId) -> tuple[RunId, bool]:
    """The last attempt that has begun, from this one on, and whether a living process is about to make it again."""
    while True:
        try:
            handle = (folders.of(run_id) / _NAME).open("rb")
        except OSError:
            return run_id, False
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return run_id, True
            try:
                following = parse_run_id(handle.read().decode("ascii", "replace"))
            except MirageError:
                return run_id, False
        if following <= run_id or not folders.of(following).exists():  # it was given up before it began
            return run_id, False
        run_id = following
