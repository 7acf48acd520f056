"""The life of a run from a created container to a sealed record: the one path for a living and an adopting process.

The container is the durable thing. Whoever holds the run's journal follows it, takes what it saved, and seals one
record; a process that dies in the middle is replaced by recover.py, which enters the same functions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import canonical, logtimes, provenance
from orchestrator.artifacts import audit
from orchestrator.artifacts.guard import Guard
from orchestrator.artifacts.outbox import Outbox
from orchestrator.artifacts.version import Version, load
from orchestrator.artifacts.withheld import WithheldOutbox
from orchestrator.digest import Digest, of_bytes, of_file
from orchestrator.ends import End, classify
from orchestrator.errors import EngineError, Interrupted, StoreError
from orchestrator.hardware import describe
from orchestrator.interrupts import Interrupts
from orchestrator.journal import Journal, RunFolders, read
from orchestrator.logspool import LogSpool
from orchestrator.plan import Plan
from orchestrator.ports import Ended, Executor, Reporter, Store
from orchestrator.progress import phase
from orchestrator.provenance import Byproduct, Result, ResultOutput
from orchestrator.reference import RunId, parse_artifact, record_key
from orchestrator.store.sessions import release, writing
from orchestrator.trust.chain import Link
from orchestrator.trust.notary import Notary

# How often the outbox is looked at, in seconds.
POLL = 0.02
# A store that cannot take an output (no space) is tried again this often and this long.
STORE_RETRY = 2.0
STORE_PATIENCE = 60.0
# Seconds without a new byte after which the log of an ended container is taken as complete.
LOG_PATIENCE = 10.0
# Seconds between two signs of life that the engine is asked for; where it gives none, a line says so.
HEARTBEAT = 30.0
# Seconds beyond its grace after which a container that was asked to end is killed, and killed again.
STOP_PATIENCE = 10.0


def open_outbox(
    executor: Executor,
    store: Store,
    folders: RunFolders,
    journal: Journal,
    run_id: RunId,
    reporter: Reporter,
    guard: Guard,
) -> Outbox:
    """The run's outbox, telling the journal of each version before the workflow hears of it.

    A run that is made again gives out no versions; its journal names the original's outputs.
    """
    told = list(read(folders, run_id))
    lines = [line for line in told if line.get("event") == "published"]
    place = executor.outbox(run_id)

    def published(n: int, made: Version) -> None:
        journal.write("published", n=n, id=str(made.ref), digest=made.digest)

    original = next((line["outputs"] for line in told if line.get("event") == "withhold"), None)
    if original is not None:
        withheld = WithheldOutbox(
            place, store, run_id, reporter, published=published, guard=guard, original=original
        )
        withheld.restore(lines)
        return withheld
    before = [(int(line["n"]), load(store, parse_artifact(str(line["id"])))) for line in lines]
    return Outbox(place, store, run_id, reporter, published=published, guard=guard, before=before)


class Follower:
    """Follows one container to its end: log, outbox, interrupts, timeout."""

    def __init__(
        self,
        executor: Executor,
        handle: str,
        journal: Journal,
        outbox: Outbox,
        spool: LogSpool,
        reporter: Reporter,
        cancelled: Callable[[], str | None],
    ) -> None:
        self._executor = executor
        self._handle = handle
        self._journal = journal
        self._outbox = outbox
        self._spool = spool
        self._reporter = reporter
        self._cancelled = cancelled
        self._done = threading.Event()
        self._ended: Ended | None = None
        self._trouble: Exception | None = None
        self._stopped: str | None = None
        self._by: str | None = None
        self._killed = False
        self._store_trouble_since: float | None = None
        self._stop_due = 0.0

    def follow(
        self,
        output: Iterator[tuple[str, bytes]],
        interrupts: Interrupts,
        *,
        timeout: float | None,
        grace: float,
        stopped: str | None = None,
        by: str | None = None,
    ) -> End:
        """Block until the container has ended and all its output is kept.

        ``stopped`` and ``by`` are what an earlier follower had already asked for, and for whom. Raises EngineError
        where the engine does not come back, Interrupted at the third interrupt; the container is then left for `recover`.
        """
        started = time.monotonic()
        reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        waiter = threading.Thread(target=self._wait, daemon=True)
        taker = threading.Thread(target=self._take_outputs, daemon=True)
        watcher = threading.Thread(target=self._watch, daemon=True)
        for thread in (reader, waiter, taker, watcher):
            thread.start()
        if stopped is not None:
            self._by = by
            self._cancel(stopped, grace)  # whoever asked for it may have died before the engine heard of it
        while not self._done.wait(POLL) or taker.is_alive():
            if self._done.is_set():
                taker.join(POLL)
            elif self._trouble is not None:
                raise self._trouble
            if interrupts.count and self._stopped is None:
                self._stop(
                    "interrupt", grace, "stopping the workflow (once more: kill it now)", interrupts.by
                )
            elif interrupts.count == 2 and not self._killed:
                self._killed = True
                self._journal.write("kill")
                self._reporter.warn("killing the workflow (once more: leave it to `mirage recover`)")
                self._apart(lambda: self._executor.kill(self._handle))
            elif interrupts.count > 2:
                raise Interrupted(
                    "left while the container was being stopped", hint="`mirage recover` seals its record"
                )
            if self._stopped is None and (who := self._cancelled()) is not None:
                self._stop("cancel", grace, f"cancelled by {who}: stopping the workflow", who)
            if timeout is not None and self._stopped is None and time.monotonic() - started > timeout:
                self._stop("timeout", grace, f"the workflow ran longer than {timeout:g} s: stopping it")
            if self._stopped is not None and time.monotonic() > self._stop_due and not self._done.is_set():
                # the engine did not hear of it, or could not do it then
                self._stop_due = time.monotonic() + STOP_PATIENCE
                self._apart(lambda: self._executor.kill(self._handle))
        waiter.join()
        self._drain(reader)
        if self._trouble is not None:
            raise self._trouble
        if self._stopped is None and self._ended is not None and self._ended.exit_code:
            self._by = self._cancelled()  # whoever cancelled it had to kill it past us
            self._stopped = "cancel" if self._by is not None else None
        return End(self._ended, self._stopped, by=self._by)

    def _drain(self, reader: threading.Thread) -> None:
        """Wait for the rest of the log, however long it is, as long as it keeps coming."""
        quiet, seen = 0.0, -1
        while reader.is_alive() and quiet < LOG_PATIENCE:
            quiet = quiet + 0.5 if self._spool.total == seen else 0.0
            seen = self._spool.total
            reader.join(timeout=0.5)
        if reader.is_alive():
            self._reporter.warn("the engine stopped sending the log before its end: the rest is not kept")

    def _stop(self, why: str, grace: float, message: str, by: str | None = None) -> None:
        self._by = by
        self._journal.write("stop", why=why, by=by)
        self._reporter.warn(message)
        self._cancel(why, grace)

    def _cancel(self, why: str, grace: float) -> None:
        self._stopped = why
        self._stop_due = time.monotonic() + grace + STOP_PATIENCE
        self._apart(lambda: self._executor.cancel(self._handle, grace))

    def _apart(self, action: Any) -> None:
        def guarded() -> None:
            try:
                action()
            except EngineError as error:
                self._reporter.warn(str(error))

        threading.Thread(target=guarded, daemon=True).start()

    def _read(self, output: Iterator[tuple[str, bytes]]) -> None:
        try:
            for stream, data in output:
                self._spool.write(data, stream)
                self._reporter.log(stream, data)
        except EngineError as error:
            self._reporter.warn(f"the log broke off: {error.message}")

    def _wait(self) -> None:
        try:
            self._ended = self._executor.wait(self._handle)
        except Exception as error:
            self._trouble = error
        finally:
            self._done.set()

    def _watch(self) -> None:
        """Say it where the engine hangs or is away; the run goes on, and so do we."""
        silent_since = None
        while not self._done.wait(HEARTBEAT):
            asked = time.monotonic()
            try:
                self._executor.ping()
            except EngineError:
                silent_since = silent_since or asked
                seconds = time.monotonic() - silent_since
                self._reporter.warn(f"the engine has not answered for {seconds:.0f} s; waiting for it")
                continue
            if silent_since is not None:
                self._reporter.note("the engine answers again")
                silent_since = None

    def _take_outputs(self) -> None:
        """Take what is ready, until the container has ended: apart, since a large output takes its time."""
        wait = POLL
        while not self._done.wait(wait):
            try:
                wait = STORE_RETRY if self._poll_outbox() else POLL
            except Exception as error:
                self._trouble = error
                return

    def _poll_outbox(self) -> bool:
        """Take what is ready; gives whether the store is in trouble: it is then tried again for a while."""
        now = time.monotonic()
        try:
            patience_over = (
                self._store_trouble_since is not None and now - self._store_trouble_since > STORE_PATIENCE
            )
            self._outbox.poll(give_up=patience_over)
            self._store_trouble_since = None
        except StoreError as error:
            if self._store_trouble_since is None:
                self._store_trouble_since = now
                self._reporter.warn(f"{error}\n  the workflow waits; trying again for {STORE_PATIENCE:.0f} s")
            return True
        return False


@dataclass(frozen=True)
class Sealed:
    """A finished run: its result and the digest of its record."""

    result: Result
    record: Digest


def seal(
    plan: Plan,
    end: End,
    *,
    store: Store,
    outbox: Outbox,
    spool: LogSpool | None,
    log: Path,
    journal: Journal,
    reporter: Reporter,
    notary: Notary,
    recovered: bool,
) -> Sealed:
    """Take what is left, write run.json and the record. The record exists once, whoever seals it.

    Raises StoreError where the store cannot take it; everything stays for `mirage recover`.
    """
    journal.write("collect")
    with phase(reporter, "collect"):
        outbox.poll(give_up=False)
        outbox.settle()
    with writing(store) as kept:
        within = (kept, outbox.within(kept), notary.within(kept))
        sealed = _seal(plan, end, *within, spool, log, journal, reporter, recovered)
    release(store, plan.run_id)
    return sealed


def _seal(
    plan: Plan,
    end: End,
    store: Store,
    outbox: Outbox,
    notary: Notary,
    spool: LogSpool | None,
    log: Path,
    journal: Journal,
    reporter: Reporter,
    recovered: bool,
) -> Sealed:
    unfinished = outbox.unfinished()
    if unfinished:
        reporter.warn(f"{unfinished} artifact(s) were begun and not finished: they are not published")
    metrics, metrics_blob, bad_lines = outbox.metrics()
    if bad_lines:
        reporter.warn(f"{bad_lines} line(s) of metrics could not be read")
    byproducts = list(_log_byproduct(store, spool, log))
    if metrics_blob is not None:
        byproducts.append(Byproduct("metrics.jsonl", metrics_blob, (("unreadable", bad_lines),)))
    events = outbox.events()
    if events is not None:
        byproducts.append(Byproduct("events.jsonl", events))
    noted, audited = audit.take(outbox, store, plan.definition())
    if noted is not None:
        byproducts.append(Byproduct("audit.jsonl", noted))
    byproducts.append(Byproduct("environment.json", plan.installed))
    if plan.sbom is not None:
        byproducts.append(Byproduct("sbom.cdx.json", plan.sbom))
    status, code, name, reason = classify(end)
    # the wall clock may have jumped; an adopter has no other one
    begun = journal.begun
    seconds = max(0.0, time.time() - plan.begun) if begun is None else time.monotonic() - begun
    result = Result(
        status=status,
        exit_code=code,
        signal=name,
        reason=reason,
        oom_killed=bool(end.ended and end.ended.oom_killed),
        started_at=provenance.rfc3339(plan.begun),
        finished_at=provenance.rfc3339(plan.begun + seconds),
        seconds=seconds,
        outputs=tuple(
            ResultOutput(
                str(o.version.ref),
                o.version.digest,
                o.version.manifest.size,
                o.version.manifest.files,
                o.version.manifest.format,
            )
            for o in outbox.outputs
            if o.version is not None
        ),
        metrics=tuple(sorted(metrics.items())),
        byproducts=tuple(byproducts),
        unpublished=outbox.refused(),
        recovered=recovered,
        audit_json=audited,
    )
    run_json = store.put(result.run_json(plan.run_id))
    key, hardware = record_key(plan.run_id), describe(ask_driver=plan.has_gpus())
    told: set[Digest] = set()

    def statement(link: Link) -> bytes:
        return provenance.statement(
            plan.run_id, plan.definition(), plan.builder(), hardware, result, run_json, link.to_json()
        )

    def before(link: Link, digest: Digest) -> None:
        told.add(digest)
        journal.write("record", digest=digest, seq=link.seq)

    record = notary.seal(key, statement, before)
    if of_bytes(record) not in told:
        # an earlier follower sealed it and died before it could say so
        from orchestrator.trust.dsse import payload_of

        found = canonical.decode(payload_of(record))
        if found["predicate"]["buildDefinition"] != plan.definition():  # type: ignore[index, call-overload]
            raise StoreError(
                f"the store {store.location} has the record of another run under the id {plan.run_id}",
                hint="two machines drew one id in the same moment: run it again; its outputs are in the store",
            )
    return Sealed(result, of_bytes(record))


def _log_byproduct(store: Store, spool: LogSpool | None, log: Path) -> Iterator[Byproduct]:
    dropped = 0
    if spool is not None:
        spool.close()
        dropped = spool.dropped
    if log.exists() and (log.stat().st_size or dropped):  # a log of which all was lost is told as well
        digest = _kept(store, log)
        yield Byproduct("log", digest, (("bytes", log.stat().st_size), ("droppedBytes", dropped)))
        times = logtimes.beside(log)
        if times.exists():
            yield Byproduct("log.times", _kept(store, times))


def _kept(store: Store, path: Path) -> Digest:
    with path.open("rb") as source:
        digest = of_file(source)
    store.put_file(path, digest=digest, link=False)
    return digest
