"""Attempts of a run that was prepared: from a plan to a sealed record, and again where the engine ended one.

Each attempt has its own run id, container, journal and record (ADR 0015). What comes after a container's start is
life.py's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from orchestrator import cancelling, hints, life, retrying
from orchestrator import journal as journals
from orchestrator.artifacts.guard import Guard
from orchestrator.digest import Digest
from orchestrator.ends import End, classify, with_inputs
from orchestrator.errors import EngineError, Interrupted, MirageError, StoreError
from orchestrator.interrupts import Interrupts, as_ctrl_c
from orchestrator.life import Sealed
from orchestrator.logspool import LogSpool
from orchestrator.plan import Plan
from orchestrator.ports import RunSpec
from orchestrator.prepare import Services, Stages
from orchestrator.reference import RunId, new_run_id

# Seconds before the next attempt, and before each further look for an engine that is away; and how long it is looked for.
RETRY_PAUSE = 1.0
RETRY_PATIENCE = 60.0
SILENCE = 3.0  # seconds of tidying up after which it is told: a million files take a minute and more
Link = tuple[str, Digest]  # a run, and its record


@dataclass(frozen=True)
class Finished:
    """A run with its record."""

    plan: Plan
    sealed: Sealed
    seconds: tuple[tuple[str, float], ...]
    hints: tuple[str, ...] = ()
    failure: MirageError | None = None  # what kept the workflow from starting
    infrastructure: bool = False  # it was the engine's or the machine's fault


def attempts(
    run_id: RunId,
    made: Callable[[RunId, Link | None], tuple[RunSpec, Plan]],
    services: Services,
    stages: Stages,
    *,
    retries: int,
    started: Callable[[RunId], None] | None = None,
) -> Finished:
    """Carry a run out, and up to ``retries`` times again where the engine or the machine ended it.

    ``made`` gives what an attempt is told, by its run id and the attempt before it. ``started`` is told of the first
    one that starts. Raises what kept the last one from starting, Interrupted between two of them.
    """
    before: Finished | None = None
    following: list[RunId] = []
    with ExitStack() as announced:

        def ends(infrastructure: bool, here: RunId, retries: int) -> None:
            if infrastructure and retries:
                following.append(new_run_id())
                announced.enter_context(retrying.announce(services.folders, here, following[-1]))

        while True:
            link = None if before is None else (before.plan.run_id, before.sealed.record)
            spec, plan = made(run_id, link)
            finished = attempt(
                run_id,
                spec,
                plan,
                services,
                stages,
                started=started,
                begun=announced.close,
                ends=partial(ends, here=run_id, retries=retries),
            )
            if not finished.infrastructure or retries == 0:
                return whole(finished)
            if finished.failure is None:
                started = None  # it was told of the first one that started
            # Its record names all that the next one needs, so that nothing of it goes meanwhile.
            retries, before, run_id = retries - 1, finished, following[-1]
            _before_the_next(finished, retries, services)


def _before_the_next(ended: Finished, left: int, services: Services) -> None:
    """Say that a run is made again, and give the engine a moment. Raises Interrupted at Ctrl-C, or `mirage cancel`."""
    services.reporter.warn(
        f"{ended.plan.run_id} was ended by the engine or the machine ({ended.sealed.result.reason}), and is recorded; "
        f"making it again ({left} more after this)"
    )
    until = time.monotonic() + RETRY_PATIENCE
    try:
        with as_ctrl_c():
            while True:
                time.sleep(RETRY_PAUSE)
                who = cancelling.asked(services.folders, RunId(ended.plan.run_id))
                if who is not None:
                    raise _not_again(ended, f"cancelled by {who}")
                with suppress(EngineError):
                    return services.executor.ping()
                if time.monotonic() > until:
                    return None  # the attempt itself then says what is wrong
    except KeyboardInterrupt as error:
        raise _not_again(ended, "interrupted") from error


def _not_again(ended: Finished, how: str) -> Interrupted:
    return Interrupted(f"{how} before the run was made again", hint=f"mirage show {ended.plan.run_id}")


def whole(finished: Finished) -> Finished:
    """A run whose workflow started; raises what kept it from that."""
    if finished.failure is not None:
        raise finished.failure
    return finished


def attempt(
    run_id: RunId,
    spec: RunSpec,
    plan: Plan,
    services: Services,
    stages: Stages,
    *,
    withhold: tuple[tuple[str, Digest], ...] | None = None,
    started: Callable[[RunId], None] | None = None,
    begun: Callable[[], None] = lambda: None,
    ends: Callable[[bool], None] = lambda infrastructure: None,
) -> Finished:
    """One attempt, to its sealed record; what kept the workflow from starting is in the result.

    ``withhold``: give out no versions, and answer the workflow with these ids, as the run did that is made again.
    ``begun`` is called as soon as there is a run, ``ends`` when it has its record and before it is closed: with whether
    the engine or the machine ended it.
    """
    with Interrupts() as interrupts:
        journal = journals.begin(services.folders, run_id, plan.encode())
        try:
            begun()
            if withhold is not None:
                journal.write("withhold", outputs=[list(pair) for pair in withhold])
            this = _Attempt(run_id, plan, services, journal, stages, ends)
            with LogSpool(services.folders.of(run_id) / "log") as spool:
                output = this.start(spec, interrupts)
                if started is not None and this.failure is None:
                    started(run_id)
                end = this.follow(output, interrupts, spool)
                sealed = this.seal(end, spool, interrupts)
        finally:
            journal.release()
    if this.failure is not None:
        services.reporter.note(f"it could not start, and is recorded: mirage show {run_id}")
    told = hints.of_sealed(run_id, this.plan.definition(), sealed.result, services.folders.of(run_id) / "log")
    return Finished(this.plan, sealed, stages.seconds(), told, this.failure, this.infrastructure(end))


class _Attempt:
    """One run between its journal's first and last line; ``failure`` is what kept the workflow from starting."""

    def __init__(
        self,
        run_id: RunId,
        plan: Plan,
        services: Services,
        journal: journals.Journal,
        stages: Stages,
        ends: Callable[[bool], None],
    ) -> None:
        self._ends = ends
        self.plan = plan
        self.failure: MirageError | None = None
        self._run_id = run_id
        self._services = services
        self._journal = journal
        self._stages = stages
        self._handle: str | None = None
        self._before_start: End | None = None
        self._outbox = life.open_outbox(
            services.executor,
            services.store,
            services.folders,
            journal,
            run_id,
            services.reporter,
            Guard(services.secrets.redactor, services.outputs),
        )

    def start(self, spec: RunSpec, interrupts: Interrupts) -> Iterator[tuple[str, bytes]]:
        """Create the container and start it; gives its output.

        What keeps it from starting becomes ``failure``, and gets a record like any other end; where the engine
        does not say whether it started, EngineError is raised and the run is left to `mirage recover`.
        """
        executor, journal = self._services.executor, self._journal
        try:
            with self._stages("fetch"):
                journal.write("create")
                with interrupts.leaving_at(1):  # large inputs take their time
                    self._handle = executor.submit(spec)
            self._state("created")
            with self._stages("start"):
                secrets = self._services.secrets
                output = secrets.redactor.output(executor.follow(self._handle))
                journal.write("start")
                executor.start(self._handle, secrets)
                self._state("running")
                return output
        except Interrupted as error:
            self.failure = Interrupted(
                "interrupted before the workflow started", hint="run it again; inputs that are laid out stay"
            )
            self._before_start = End(None, "before-start", by=interrupts.by)
            self._handle = self._handle or executor.find(self._run_id)
            journal.write("trouble", message=error.message, stopped="before-start", by=interrupts.by)
            return iter(())
        except MirageError as error:
            if isinstance(error, EngineError) and self._has_started():
                raise
            self.failure = error
            journal.write("trouble", message=self._services.secrets.redactor.text(error.message))
            return iter(())

    def infrastructure(self, end: End) -> bool:
        """Whether the engine or the machine ended it, and it may go well the next time."""
        # what else can keep it from starting (a full store, a wrong input) is not better then
        return end.infrastructure and isinstance(self.failure, EngineError | None)

    def _state(self, state: str) -> None:
        self._services.reporter.event("state", {"run": self._run_id, "state": state})

    def _has_started(self) -> bool:
        """Whether the container runs, or ran, for all that the engine says. Raises EngineError where it is silent."""
        executor = self._services.executor
        self._handle = self._handle or executor.find(self._run_id)
        state = executor.state(self._handle) if self._handle is not None else None
        return state is not None and state.status != "created"

    def follow(self, output: Iterator[tuple[str, bytes]], interrupts: Interrupts, spool: LogSpool) -> End:
        """Follow it to its end, taking what it saves."""
        if self._before_start is not None:
            return self._before_start
        if self.failure is not None or self._handle is None:
            told = self.failure.message if self.failure else "no container"
            return End(None, None, self._services.secrets.redactor.text(told))
        with self._stages("execute"):
            follower = life.Follower(
                self._services.executor,
                self._handle,
                self._journal,
                self._outbox,
                spool,
                self._services.reporter,
                lambda: cancelling.asked(self._services.folders, self._run_id),
            )
            end = follower.follow(output, interrupts, timeout=self.plan.timeout, grace=self.plan.grace)
            if end.filled is not None:
                self._services.reporter.warn(f"the run was ended: {end.filled}")
                with suppress(StoreError):  # that disk may have no room for a line either
                    self._journal.write("full", error=end.filled)
            return end

    def seal(self, end: End, spool: LogSpool, interrupts: Interrupts) -> Sealed:
        """Write the record, then remove the container; where the store cannot take it, all stays for recovery.

        Raises Interrupted at the third interrupt, counted from the run's beginning.
        """
        try:
            with self._stages("record"), interrupts.leaving_at(max(3, interrupts.count + 1)):
                return self._sealed(end, spool)
        except Interrupted as error:
            raise Interrupted(
                f"left while the record of {self._run_id} was being written",
                hint="`mirage recover` seals it",
            ) from error

    def _sealed(self, end: End, spool: LogSpool) -> Sealed:
        end = with_inputs(end, self._services.executor, self._run_id, self._services.reporter)
        try:
            sealed = life.seal(
                self.plan,
                end,
                store=self._services.store,
                outbox=self._outbox,
                spool=spool,
                log=self._services.folders.of(self._run_id) / "log",
                journal=self._journal,
                reporter=self._services.reporter,
                notary=self._services.notary,
                recovered=False,
            )
        except MirageError as error:
            if isinstance(error, StoreError) and error.away and self.failure is None:
                raise StoreError(
                    f"{error.message}; the run {self._run_id} {classify(end)[0]}, and what it saved, its log and "
                    "its record wait on this machine",
                    hint="when the store answers again: mirage artifact push --pending"
                    + (f" (to help it: {error.hint})" if error.hint else ""),
                ) from error
            self._services.reporter.warn(
                f"the run has ended and its record could not be written; once what follows is mended,\n"
                f"  `mirage recover {self._run_id}` writes it, with all that was saved"
            )
            raise (self.failure or error) from error
        self._state(sealed.result.status)
        self._ends(self.infrastructure(end))
        slow = threading.Timer(SILENCE, lambda: self._services.reporter.note("recorded; removing its outbox"))
        slow.daemon = True
        slow.start()
        try:
            self._services.executor.cleanup(self._handle, self._run_id)
            self._journal.close()
        except MirageError as error:  # the record is there: this is the next process's to tidy up
            self._services.reporter.warn(f"{error.message}; `mirage recover` removes what is left")
        finally:
            slow.cancel()
        return sealed
