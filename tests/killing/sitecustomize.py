"""Loaded by a child that a test starts: dies by SIGKILL right after a chosen line of the journal is on disk."""

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
