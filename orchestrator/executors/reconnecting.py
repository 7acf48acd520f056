"""A container's output and its end, through restarts of the engine: reconnect, look again, believe no broken answer.

What an engine does (measured on Docker 20.10). With live-restore it leaves its containers alone, and their exit codes
are right when it is back. Without it, stopped by SIGTERM it first stops its containers, and killed it stops those that
run when it starts again; their exit codes then look like the workflow's own. From SIGTERM on it takes no new
connections, while those that are open still work. It listens before it stops containers at its start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from orchestrator.ends import DAEMON_RESTART
from orchestrator.engine_values import ContainerState
from orchestrator.errors import EngineError
from orchestrator.ports import Ended, Engine

# Seconds to wait for an engine that went away to come back, and between two tries at most.
PATIENCE = 60.0
_LONGEST_PAUSE = 2.0
# Seconds that a container may take to be ended in the engine's words after its output did.
_SETTLING = 1.0
# Seconds between an end and our hearing of it, within which the end is the engine's doing.
_SLACK = 0.5
# Seconds in which an engine that answers must have removed a container.
_REMOVAL = 20.0
# Bytes from which on the engine's log files may have been rotated (docker_json.py: four of 64 MiB, as JSON).
_ROTATES = 96 << 20
# Bytes of a line after which an engine logs what it has of it (moby, daemon/logger/copier.go).
_LINE = 16 << 10


def ended(state: ContainerState) -> Ended:
    """What a container's last state says of its end."""
    return Ended(state.exit_code, state.oom_killed, state.error, state.started_at, state.finished_at)


def end(engine: Engine, container: str) -> Ended | None:
    """Block until it has ended; None where it is gone. Raises EngineError where the engine does not come back."""
    while True:
        whole = engine.wait(container)
        heard = time.time()
        shaken = not whole or not _answers(engine)
        state = look_again(engine, container)
        if state is None:
            return None
        if state.status in ("exited", "dead"):
            found = ended(state)
            return (
                replace(found, error=DAEMON_RESTART) if shaken and _its_doing(engine, found, heard) else found
            )
        time.sleep(0.05)


def _its_doing(engine: Engine, found: Ended, heard: float) -> bool:
    """Whether the engine, which went away at ``heard``, ended the container, for all that can be told.

    In doubt it did: a workflow that an engine stopped must not pass for one that failed, or succeeded, by itself.
    """
    if engine.info().live_restore:
        return False
    at, back = _seconds(found.finished_at), engine.listening_since()
    by_itself = at is not None and back is not None and heard + _SLACK < at < back
    return not by_itself


def output(engine: Engine, container: str, first: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """``first``, and where it breaks off while the container runs, what the engine's own log has beyond it.

    Raises EngineError where something may be missing.
    """
    given = {"stdout": 0, "stderr": 0}
    unfinished = dict.fromkeys(given, b"")  # the line that was not at its end, of each
    known = {name: _Known() for name in given}
    stream, last = first, time.time()

    def new(pieces: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        nonlocal last
        for name, data in pieces:
            fresh = known[name].beyond(data)
            if fresh:
                given[name] += len(fresh)
                line = fresh.rpartition(b"\n")[2] if b"\n" in fresh else unfinished[name] + fresh
                unfinished[name] = line[len(line) // _LINE * _LINE :]
                last = time.time()
                yield name, fresh

    while True:
        broken = False
        try:
            yield from new(stream)
        except EngineError:
            broken = True
        if not broken and not _cut(engine, container):
            return
        state = look_again(engine, container)
        if state is None:
            return
        going_on = state.status in ("created", "running", "restarting", "paused")
        if sum(given.values()) < _ROTATES:
            known = {name: _Known(given[name], unfinished[name]) for name in given}
            stream = engine.logs(container, follow=going_on)
        else:
            known = {name: _Known() for name in given}
            stream = engine.logs(container, follow=going_on, since=last)
        if not going_on:
            yield from new(stream)
            raise EngineError(
                "the engine was away when the workflow ended; what it wrote meanwhile may be missing"
            )
        time.sleep(0.2)  # an engine that hangs up at once must not be asked all the time


class _Known:
    """What was given before of a stream that is read again.

    A killed engine's log lacks the line that was not at its end: so that line counts only where it stands there.
    """

    def __init__(self, count: int = 0, unfinished: bytes = b"") -> None:
        self._count = count - len(unfinished)
        self._unfinished = unfinished
        self._held = b""

    def beyond(self, data: bytes) -> bytes:
        """What of the data was not given before."""
        skip = min(self._count, len(data))
        self._count -= skip
        if not self._unfinished:
            return data[skip:]
        self._held += data[skip:]
        if len(self._held) < len(self._unfinished) and self._unfinished.startswith(self._held):
            return b""
        fresh = self._held.removeprefix(self._unfinished)
        self._unfinished = self._held = b""
        return fresh


def _cut(engine: Engine, container: str) -> bool:
    """Whether a stream that ended did so before the container: it goes on, or the engine is away."""
    until = time.monotonic() + _SETTLING
    while True:
        try:
            state = engine.inspect(container)
        except EngineError:
            return True
        if state is None or state.status not in ("running", "paused", "restarting"):
            return False
        if time.monotonic() > until:
            return True
        time.sleep(0.05)


def look_again(engine: Engine, container: str) -> ContainerState | None:
    """The container's state, as soon as the engine tells it; None where it is gone. Raises EngineError in the end."""
    deadline, pause = time.monotonic() + PATIENCE, 0.1
    while True:
        try:
            return engine.inspect(container)
        except EngineError:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def remove(engine: Engine, container: str) -> None:
    """Remove it, until an engine that takes new connections says that it is gone. Raises EngineError in the end.

    An engine that is being stopped still answers on open connections, and may die in the middle of a removal that it
    called done.
    """
    begun = away = time.monotonic()
    pause = 0.1
    while True:
        trouble = EngineError(
            f"the engine still has the container {container[:12]}, which it was told to remove"
        )
        try:
            engine.remove(container)
        except EngineError as error:
            trouble = error
        try:
            engine.ping()
            if engine.inspect(container) is None:
                return
        except EngineError as error:
            trouble, away = error, time.monotonic()
        now = time.monotonic()
        if now - begun > PATIENCE or now - away > _REMOVAL:
            raise trouble
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _answers(engine: Engine) -> bool:
    try:
        engine.ping()
    except EngineError:
        return False
    return True


def _seconds(stamp: str) -> float | None:
    """An engine's time stamp (RFC 3339 with nanoseconds, in UTC) as seconds since the epoch."""
    try:
        whole, _, fraction = stamp.removesuffix("Z").partition(".")
        return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
    except ValueError:
        return None
