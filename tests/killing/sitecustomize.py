"""Loaded by a child that a test starts: dies by SIGKILL right after a line of the journal, or before a name in the store."""

import os
import signal
from typing import Any

_EVENT = os.environ.get("MIRAGE_TEST_KILL_AT")

if _EVENT:
    _fsync = os.fsync

    def _fsync_then_die(fd: Any) -> None:
        _fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith("/journal"):
            with open(path, "rb") as lines:
                last = lines.read().splitlines()[-1]
            if f'"event": "{_EVENT}"'.encode() in last:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = _fsync_then_die

_BEFORE = os.environ.get("MIRAGE_TEST_KILL_BEFORE")

if _BEFORE:
    _link = os.link

    def _die_or_link(source: Any, target: Any, **words: Any) -> None:
        """Dies right before an object of the store gets its name: one below this folder of the store."""
        if f"/artifacts/{_BEFORE}" in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        _link(source, target, **words)

    os.link = _die_or_link  # type: ignore[assignment]  # it takes what our own calls give
