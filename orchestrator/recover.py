"""Recovery: what a dead process left is adopted or reaped, so that every run ends with one record.

running -> adopt, follow, collect, record; exited -> collect, record; created -> remove, record; gone -> record as
lost. Two recoverers never do it twice: the run's lock and the create-once record see to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import journal as journals
from orchestrator import life, plan
from orchestrator.artifacts.outbox import Outbox
from orchestrator.executors.local_docker import ended
from orchestrator.journal import Busy, Journal, RunFolders
from orchestrator.life import End, Follower, Interrupts, Sealed
from orchestrator.logspool import LogSpool
from orchestrator.plan import Plan
from orchestrator.ports import Executor, Reporter, Store
from orchestrator.reference import RunId


@dataclass(frozen=True)
class Recovered:
    """A run that was sealed now."""

    plan: Plan
    sealed: Sealed


@dataclass(frozen=True)
class Left:
    """A run that was left alone, with the reason."""

    run_id: RunId
    reason: str


class Recovery:
    """Finds and seals the open runs of one project."""

    def __init__(self, executor: Executor, store: Store, folders: RunFolders, reporter: Reporter) -> None:
        self._executor = executor
        self._store = store
        self._folders = folders
        self._reporter = reporter

    def recover(self, run_ids: Iterable[RunId]) -> list[Recovered | Left]:
        """Seal each run that no living process holds; may be called any number of times, beside itself."""
        found: list[Recovered | Left] = []
        for run_id in run_ids:
            try:
                journal = journals.take_over(self._folders, run_id)
            except Busy:
                found.append(Left(run_id, "alive: another process follows it"))
                continue
            except FileNotFoundError:
                (self._folders.open / run_id).unlink(missing_ok=True)
                found.append(Left(run_id, "its folder is gone: nothing to recover"))
                continue
            try:
                sealed = self._recover(run_id, journal)
                found.append(sealed)
            finally:
                journal.release()
        return found

    def orphans(self) -> tuple[list[RunId], list[RunId]]:
        """The open runs that nobody holds: (container still running, all others)."""
        running: list[RunId] = []
        others: list[RunId] = []
        for run_id in self._folders.unfinished():
            if journals.is_held(self._folders, run_id):
                continue
            handle = self._executor.find(run_id)
            state = self._executor.state(handle) if handle else None
            (running if state is not None and state.status == "running" else others).append(run_id)
        return running, others

    def _recover(self, run_id: RunId, journal: Journal) -> Recovered | Left:
        lines = list(journals.read(self._folders, run_id))
        if any(line.get("event") == "closed" for line in lines):
            (self._folders.open / run_id).unlink(missing_ok=True)
            return Left(run_id, "it was sealed already")
        folder = self._folders.of(run_id)
        planned = plan.parse((folder / "plan.json").read_bytes())
        stops = [str(line.get("why")) for line in lines if line.get("event") == "stop"]
        stopped = stops[-1] if stops else None
        journal.write("adopt")
        handle = self._executor.find(run_id)
        outbox = life.open_outbox(self._executor, self._store, self._folders, journal, run_id, self._reporter)
        spool = LogSpool(folder / "log.adopted")
        with spool:
            end = self._end(handle, planned, journal, outbox, spool, stopped)
        sealed = life.seal(
            planned,
            end,
            store=self._store,
            outbox=outbox,
            spool=spool,
            log=_fuller(folder),
            journal=journal,
            reporter=self._reporter,
            recovered=True,
        )
        self._executor.cleanup(handle, run_id)
        journal.close()
        return Recovered(planned, sealed)

    def _end(
        self,
        handle: str | None,
        planned: Plan,
        journal: Journal,
        outbox: Outbox,
        spool: LogSpool,
        stopped: str | None,
    ) -> End:
        state = self._executor.state(handle) if handle is not None else None
        if handle is None or state is None:
            began = any(
                line.get("event") == "start" for line in journals.read(self._folders, RunId(planned.run_id))
            )
            return End(None, None if began else "never-started", False)
        if state.status == "created":
            return End(None, "never-started", False)
        output = self._executor.replay(handle)
        if state.status in ("exited", "dead"):
            for _, data in output:
                spool.write(data)
            return End(ended(state), stopped, False)
        self._reporter.note(f"{planned.run_id} is still running: following it")
        follower = Follower(self._executor, handle, journal, outbox, spool, self._reporter)
        with Interrupts() as interrupts:
            return follower.follow(
                output, interrupts, timeout=planned.timeout, grace=planned.grace, stopped=stopped
            )


def _fuller(folder: Path) -> Path:
    """The log that holds more: what the dead process had spooled, or what the engine still had."""
    log, adopted = folder / "log", folder / "log.adopted"
    before = log.stat().st_size if log.exists() else -1
    if adopted.stat().st_size > before:
        adopted.replace(log)
    else:
        adopted.unlink()
    for rest in folder.glob("log.tail-*"):
        rest.unlink(missing_ok=True)
    return log
