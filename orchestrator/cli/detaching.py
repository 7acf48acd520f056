"""`mirage-run --detach`: a process of its own follows the run; the one that was called tells the run's id and goes.

The fork comes first, before there is a thread or an open engine. Until the workflow runs, the follower speaks through
the caller's terminal; then its words go to `follower.log` in the run's folder.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from orchestrator.cli.terminal import print_json

if TYPE_CHECKING:
    from orchestrator.journal import RunFolders
    from orchestrator.ports import Reporter
    from orchestrator.reference import RunId


class Background:
    """The follower's side: a pipe to the caller, which waits for one run id."""

    def __init__(self, caller: int) -> None:
        self._caller = caller

    def leave(self, folders: RunFolders, reporter: Reporter) -> Callable[[RunId], None]:
        """What is to be done as soon as the workflow runs: leave the terminal, tell the caller the run's id."""

        def started(run_id: RunId) -> None:
            leave = getattr(reporter, "leave_terminal", None)  # of those that speak to a terminal
            if leave is not None:
                leave()
            log = os.open(
                folders.of(run_id) / "follower.log",
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                0o644,
            )
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for target, source in ((0, nothing), (1, log), (2, log)):
                os.dup2(source, target)
            os.close(log)
            os.close(nothing)
            with suppress(OSError):  # the caller was killed: the run goes on all the same
                os.write(self._caller, run_id.encode())
            os.close(self._caller)

        return started


def fork(as_json: bool) -> Background:
    """Give the follower's side, in a process and a session of its own; the caller's process ends in here."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        _wait(child, reading, as_json)
    os.close(reading)
    os.setsid()
    return Background(writing)


def _wait(child: int, reading: int, as_json: bool) -> NoReturn:
    """Wait for the run's id, or for the follower's end where it does not come so far; Ctrl-C goes to the follower."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    told = b""
    while piece := os.read(reading, 100):
        told += piece
    if told:
        run_id = told.decode()
        with suppress(BrokenPipeError):
            if as_json:
                print_json({"run_id": run_id, "status": "running"})
            else:
                print(run_id)
                print(
                    f"  -> `mirage logs -f {run_id}`, `mirage wait {run_id}`, `mirage cancel {run_id}`",
                    file=sys.stderr,
                )
            sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
