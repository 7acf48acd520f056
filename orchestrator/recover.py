"""Recovery: what a dead process left is adopted or reaped, so that every run ends with one record.

running -> adopt, follow, collect, record; exited -> collect, record; created -> remove, record; gone -> record as
lost. Two recoverers never do it twice: the run's lock and the create-once record see to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import cancelling, life, logtimes, plan
from orchestrator import journal as journals
from orchestrator.artifacts.guard import Guard
from orchestrator.artifacts.outbox import Outbox
from orchestrator.digest import parse_digest
from orchestrator.ends import End, with_inputs
from orchestrator.errors import ConfigError, Interrupted, MirageError
from orchestrator.executors.reconnecting import ended
from orchestrator.interrupts import Interrupts
from orchestrator.journal import Busy, Journal, RunFolders
from orchestrator.life import Follower, Sealed
from orchestrator.logspool import LogSpool
from orchestrator.plan import Plan
from orchestrator.ports import Executor, Reporter, Store
from orchestrator.redaction import Redactor, Secrets
from orchestrator.reference import RunId, record_key
from orchestrator.settings import OutputSettings
from orchestrator.trust.notary import Notary


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
    alive: bool = False


class Recovery:
    """Finds and seals the open runs of one project."""

    def __init__(
        self,
        executor: Executor,
        store: Store,
        folders: RunFolders,
        reporter: Reporter,
        notary: Notary,
        *,
        secrets: Callable[[tuple[str, ...]], Secrets],
        outputs: OutputSettings,
    ) -> None:
        self._notary = notary
        self._executor = executor
        self._store = store
        self._folders = folders
        self._reporter = reporter
        self._secrets = secrets
        self._outputs = outputs

    def recover(self, run_ids: Iterable[RunId]) -> list[Recovered | Left]:
        """Seal each run that no living process holds; may be called any number of times, beside itself."""
        found: list[Recovered | Left] = []
        for run_id in run_ids:
            try:
                journal = journals.take_over(self._folders, run_id)
            except Busy:
                found.append(Left(run_id, "alive: another process follows it", alive=True))
                continue
            except FileNotFoundError:
                (self._folders.open / run_id).unlink(missing_ok=True)
                found.append(Left(run_id, "its folder is gone: nothing to recover"))
                continue
            try:
                found.append(self._recover(run_id, journal))
            except Interrupted:
                raise
            except MirageError as error:  # one that cannot be recovered must not keep the others from it
                found.append(Left(run_id, str(error)))
            except OSError as error:
                found.append(Left(run_id, f"{error.filename}: {error.strerror}"))
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
        events = {line.get("event") for line in lines}
        if "closed" in events:
            (self._folders.open / run_id).unlink(missing_ok=True)
            return Left(run_id, "it was sealed already")
        if "begun" not in events:
            journals.forget(self._folders, run_id)
            return Left(run_id, "it had not begun: its process died before anything was done")
        folder = self._folders.of(run_id)
        planned = plan.parse((folder / "plan.json").read_bytes())
        if planned.store != self._store.location:
            return Left(
                run_id, f"its store is {planned.store}: recover it with the config that names that one"
            )
        if planned.engine != self._executor.info().id:
            return Left(run_id, "its container is on another engine: recover it with that one (DOCKER_HOST)")
        handle = self._executor.find(run_id)
        if self._sealed(run_id, lines):
            # its process died between the record and the journal's last line
            self._executor.cleanup(handle, run_id)
            journal.close()
            return Left(run_id, "its record was there already: only its leftovers were removed")
        try:
            redactor = self._secrets(planned.secrets).redactor
        except ConfigError as error:  # what it wrote could not be cleaned of them
            return Left(run_id, f"{error.message}, and its log may hold them: recover it where they are set")
        journal.write("adopt")
        outbox = life.open_outbox(
            self._executor,
            self._store,
            self._folders,
            journal,
            run_id,
            self._reporter,
            Guard(redactor, self._outputs),
        )
        outbox.again = True  # the dead process may have published more than it came to tell
        with LogSpool(folder / "log.adopted") as spool:
            end = self._end(handle, planned, lines, journal, outbox, spool, redactor)
        sealed = life.seal(
            planned,
            with_inputs(end, self._executor, run_id, self._reporter),
            store=self._store,
            outbox=outbox,
            spool=spool,
            log=_fuller(folder),
            journal=journal,
            reporter=self._reporter,
            notary=self._notary,
            recovered=True,
        )
        self._executor.cleanup(handle, run_id)
        journal.close()
        return Recovered(planned, sealed)

    def _sealed(self, run_id: RunId, lines: list[dict[str, Any]]) -> bool:
        """Whether the record is there, or is now: its entry in the store's log was all that its process came to."""
        key = record_key(run_id)
        if self._store.read(key) is not None:
            return True
        tried = [
            (int(line["seq"]), parse_digest(str(line["digest"])))
            for line in lines
            if line.get("event") == "record" and "seq" in line
        ]
        return self._notary.finish(key, tried) is not None

    def _end(
        self,
        handle: str | None,
        planned: Plan,
        lines: list[dict[str, Any]],
        journal: Journal,
        outbox: Outbox,
        spool: LogSpool,
        redactor: Redactor,
    ) -> End:
        """How the run ended, from the dead process's journal and the engine; waits for it where it goes on."""
        told = {str(line.get("event")): line for line in lines}
        if told.get("trouble", {}).get("stopped") == "before-start":
            return End(None, "before-start", by=told["trouble"].get("by"))
        if "trouble" in told:
            return End(None, None, str(told["trouble"].get("message")))
        stopped = str(told["stop"].get("why")) if "stop" in told else None
        by = told["stop"].get("by") if stopped else None
        state = self._executor.state(handle) if handle is not None else None
        if handle is None or state is None:
            return End(None, None if "start" in told else "never-started")
        if state.status == "created":
            return End(None, "never-started")
        if state.status in ("exited", "dead"):
            for stream, data in redactor.output(self._executor.replay(handle, follow=False)):
                spool.write(data, stream)
            found = ended(state)
            if "full" in told:  # the engine knows only that it was killed
                found = replace(found, error=str(told["full"].get("error")))
            return End(found, stopped, by=by)
        self._reporter.note(f"{planned.run_id} is still running: following it (Ctrl-C stops the workflow)")
        timeout = planned.timeout
        if timeout is not None:
            timeout = max(0.0, timeout - (time.time() - float(told["start"]["time"])))
        follower = Follower(
            self._executor,
            handle,
            journal,
            outbox,
            spool,
            self._reporter,
            lambda: cancelling.asked(self._folders, RunId(planned.run_id)),
        )
        with Interrupts() as interrupts:
            output = redactor.output(self._executor.replay(handle, follow=True))
            return follower.follow(
                output, interrupts, timeout=timeout, grace=planned.grace, stopped=stopped, by=by
            )


def _fuller(folder: Path) -> Path:
    """The log that holds more: what the dead process had spooled, or what the engine still had."""
    log, adopted = folder / "log", folder / "log.adopted"
    before = log.stat().st_size if log.exists() else -1
    if adopted.stat().st_size > before:
        # without its times first: a log with the times of another one would lie
        logtimes.beside(log).unlink(missing_ok=True)
        adopted.replace(log)
        with suppress(FileNotFoundError):
            logtimes.beside(adopted).replace(logtimes.beside(log))
    else:
        adopted.unlink()
        logtimes.beside(adopted).unlink(missing_ok=True)
    for rest in folder.glob("log.tail-*"):
        rest.unlink(missing_ok=True)
    return log
