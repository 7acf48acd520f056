"""Loaded by a child that a test starts: dies by SIGKILL right after a chosen line of the journal is on disk.

MIRAGE_TEST_SIGNAL sends itself another signal instead, NUMBERxTIMES. MIRAGE_TEST_HEARTBEAT asks the engine for a sign of
life that often, in seconds.
"""

import os
import signal
from typing import Any

_EVENT = os.environ.get("MIRAGE_TEST_KILL_AT")
_NUMBER, _, _TIMES = os.environ.get("MIRAGE_TEST_SIGNAL", f"{int(signal.SIGKILL)}x1").partition("x")

if _EVENT:
    _fsync = os.fsync
    _left = [int(_TIMES)]

    def _fsync_then_die(fd: Any) -> None:
        _fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith("/journal"):
            with open(path, "rb") as lines:
                last = lines.read().splitlines()[-1]
            if f'"event": "{_EVENT}"'.encode() in last:
                while _left[0]:
                    _left[0] -= 1
                    os.kill(os.getpid(), int(_NUMBER))

    os.fsync = _fsync_then_die

if "MIRAGE_TEST_HEARTBEAT" in os.environ:
    from orchestrator import life

    life.HEARTBEAT = float(os.environ["MIRAGE_TEST_HEARTBEAT"])
