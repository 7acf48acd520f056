"""How a run ended, in the record's words: from what the engine says and from what we asked for."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from orchestrator.ports import Ended, Executor, Reporter

DAEMON_RESTART = "daemon_restart"
DISK = "disk: "  # what the reason of a run begins with that was ended since it filled the disk


@dataclass(frozen=True)
class End:
    """How following ended: the engine's word (None: the container is gone) and why we stopped it, if we did.

    ``trouble`` is what kept the workflow from being started, where that was not the user; ``by`` is who stopped it,
    where that is known: the name of a signal, or of a user. ``changed`` are the inputs that somebody wrote to meanwhile.
    """

    ended: Ended | None
    stopped: str | None  # "interrupt" | "timeout" | "cancel" | "never-started" | "before-start"
    trouble: str | None = None
    by: str | None = None
    changed: tuple[str, ...] = ()

    @property
    def filled(self) -> str | None:
        """The reason of a run that was ended since it filled the disk, or the disk was filled beside it."""
        error = "" if self.ended is None else self.ended.error
        return error if error.startswith(DISK) else None

    @property
    def infrastructure(self) -> bool:
        """Whether it was the machine's fault, or the engine's: neither the workflow's nor the user's."""
        if self.stopped is not None:
            return False
        return self.trouble is not None or self.ended is None or self.ended.error == DAEMON_RESTART


def with_inputs(end: End, executor: Executor, run_id: str, reporter: Reporter) -> End:
    """The same end, with the inputs that are no longer what was laid out: its outputs may not come from those."""
    changed = executor.changed_inputs(run_id) if end.ended is not None else ()
    if changed:
        reporter.warn(f"changed from outside while the run went on: {', '.join(changed)}; its record says so")
    return replace(end, changed=changed)


def classify(end: End) -> tuple[str, int | None, str | None, str | None]:
    """(status, exit code, signal, reason) of a run."""
    status, code, name, reason = _classify(end)
    if end.changed:
        told = f"changed from outside while the run went on: {', '.join(end.changed)}"
        reason = told if reason is None else f"{reason}; {told}"
    return status, code, name, reason


def _classify(end: End) -> tuple[str, int | None, str | None, str | None]:
    if end.trouble is not None:
        return "failed", None, None, end.trouble
    if end.stopped == "never-started":
        return "interrupted", None, None, "mirage-run died before it started the workflow"
    if end.stopped == "before-start":
        return "interrupted", None, None, f"interrupted by {end.by or 'the user'} before the workflow started"
    if end.ended is None:
        return "lost", None, None, "the container is gone: the engine or the machine lost it"
    code = end.ended.exit_code
    name = _signal_name(code)
    if end.stopped == "interrupt":
        return "interrupted", code, name, f"interrupted by {end.by or 'the user'}"
    if end.stopped == "cancel":
        return "interrupted", code, name, f"cancelled by {end.by}" if end.by else "cancelled"
    if end.stopped == "timeout":
        return "failed", code, name, "timeout"
    if end.filled is not None:
        return "failed", code, name, end.filled
    if end.ended.error == DAEMON_RESTART:
        return "interrupted", code, name, DAEMON_RESTART
    if code == 0:
        return "succeeded", 0, None, "a child process ran out of memory" if end.ended.oom_killed else None
    if end.ended.oom_killed:
        return "failed", code, name, "out of memory"
    if end.ended.error:
        return "failed", code, name, f"the engine could not run it: {end.ended.error}"
    return "failed", code, name, f"killed by {name}" if name else f"exit code {code}"


def _signal_name(code: int | None) -> str | None:
    if code is None or code <= 128:
        return None
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return None
