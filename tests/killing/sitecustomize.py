"""Loaded by a child that a test starts: dies by SIGKILL right after a line of the journal, or before a
name in the store.

MIRAGE_TEST_SIGNAL sends itself another signal instead, NUMBERxTIMES. MIRAGE_TEST_HEARTBEAT asks the engine for a sign of
life that often, in seconds. MIRAGE_TEST_PAUSE: the seconds between two attempts. MIRAGE_TEST_PROGRESS: the seconds before the
first word of a step's progress, and between two.
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
if "MIRAGE_TEST_PAUSE" in os.environ:
    from orchestrator import attempts

    attempts.RETRY_PAUSE = float(os.environ["MIRAGE_TEST_PAUSE"])
if "MIRAGE_TEST_PROGRESS" in os.environ:
    from orchestrator import progress

    progress.FIRST = progress.EVERY = float(os.environ["MIRAGE_TEST_PROGRESS"])
_BEFORE = os.environ.get("MIRAGE_TEST_KILL_BEFORE")

if _BEFORE:
    _link = os.link

    def _die_or_link(source: Any, target: Any, **words: Any) -> None:
        """Dies right before an object of the store gets its name: one below this folder of the store."""
        if f"/artifacts/{_BEFORE}" in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        _link(source, target, **words)

    os.link = _die_or_link  # type: ignore[assignment]  # it takes what our own calls give

if "MIRAGE_TEST_PHASE" in os.environ:
    import phases  # type: ignore[import-not-found]

    if "MIRAGE_TEST_SIGNAL" in os.environ:
        import threading
        import time

        _sent = threading.Event()

        def _send() -> None:
            for _ in range(int(_TIMES)):
                os.kill(os.getpid(), int(_NUMBER))
                time.sleep(0.06)

        def _signalled(moment: str) -> None:
            """In place of dying: the signals come one after another, while the point is held for a moment."""
            if moment == phases._MOMENT and not _sent.is_set():
                _sent.set()
                with open(os.environ["MIRAGE_TEST_MET"], "w") as met:
                    met.write(moment)
                threading.Thread(target=_send, daemon=True).start()
                time.sleep(0.25)

        phases._die = _signalled
