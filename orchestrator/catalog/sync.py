"""Bringing the index up to the store: only what it lacks is read, and nothing is ever missed.

A month is not listed again while its folder's signature stands, if the signature had been the same for some seconds
already when it was listed: a file system's clock may not move between two names. No clock of another machine is
compared with ours. A run's folder without a record, and whatever could not be read, is looked at each time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from orchestrator.catalog import marks
from orchestrator.catalog.index import Index, Month
from orchestrator.catalog.listing import Listing
from orchestrator.catalog.number import number_of
from orchestrator.errors import MirageError, StoreError
from orchestrator.reference import RunId, parse_run_id

if TYPE_CHECKING:
    from orchestrator.catalog.reading import Batch
    from orchestrator.ports import Reporter, Store

# Longer than any file system's clock stands still: two seconds on FAT, one on old NFS servers.
SETTLING = 5.0
_TELL = 5000  # a first look at more records than this is told


class Sync:
    """One catching-up of an index with a store."""

    def __init__(self, index: Index, store: Store, listing: Listing, reporter: Reporter) -> None:
        self._index = index
        self._store = store
        self._listing = listing
        self._reporter = reporter

    def run(self) -> None:
        """Read what is new, forget what is gone, and warn of what cannot be read. Raises StoreError."""
        now = time.time()
        seen = self._listing.months()
        known = self._index.months()
        retried = dict(self._index.pending())
        for name in known.keys() - seen.keys():
            with self._index.writing():
                self._compare(name, set())
                self._index.listed(name, None)
        for name, signature in sorted(seen.items()):
            before = known.get(name)
            if before is not None and before.settled and before.signature == signature:
                continue
            with self._index.writing():
                added = self._compare(name, set(self._listing.names(name)))
            self._read([key for key in added if key not in retried])
            same = before is not None and before.signature == signature
            since = before.since if same and before is not None else now
            if signature is not None:
                with self._index.writing():
                    self._index.listed(name, Month(signature, since, same and now - since >= SETTLING))
        self._read(list(retried))
        for key, problem in sorted(self._index.pending().items()):
            if problem is not None:
                self._reporter.warn(f"{key}: {problem}")

    def _compare(self, month: str, names: set[str]) -> list[str]:
        """The keys in a month that the index lacks; what is in the index and gone from the store is forgotten.

        Another process may have listed the month after us: only what is not there now either is gone.
        """
        index, read = self._index, self._store.read
        of_marks = month.startswith("marks/")
        end = "" if of_marks else "/record.json"
        names = {name for name in names if (marks.run_of(name) if of_marks else is_run_id(name))}
        for key in index.pending():
            if key.startswith(f"{month}/") and key.split("/")[2] not in names:
                index.settle([key])
        known = index.marks_of_month(month[6:]) if of_marks else index.runs_of_month(month[5:])
        gone = [name for name in known - names if read(f"{month}/{name}{end}") is None]
        if of_marks:
            index.sql.executemany("DELETE FROM marks WHERE name = ?", [(name,) for name in gone])
            self._apply({number_of(RunId(name[:22])) for name in gone})
        else:
            index.remove([number_of(RunId(name)) for name in gone])
        return [f"{month}/{name}{end}" for name in names - known]

    def _read(self, keys: list[str]) -> None:
        """Read what these keys hold into the index, in pieces that others can wait for."""
        if not keys:
            return
        if len(keys) > _TELL:
            self._reporter.note(f"reading {len(keys)} runs into the index")
        with _no_collector():
            self._read_all(sorted(keys))  # a tree that grows at its end stays dense

    def _read_all(self, keys: list[str]) -> None:
        from orchestrator.catalog.reading import batches

        with closing(batches(self._store, keys)) as found:
            for batch in found:
                self._take(batch)

    def _take(self, batch: Batch) -> None:
        index = self._index
        with index.writing():
            index.add(batch.entries)
            index.sql.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?, ?)", batch.said)
            marked = index.marked([each.number for each in batch.entries])
            self._apply(marked | {number for _, number, _ in batch.said})
            index.settle(batch.settled)
            for key, problem in batch.problems.items():
                index.postpone(key, problem)

    def _apply(self, numbers: set[int]) -> None:
        """Say again what the marks of these runs amount to."""
        for number in numbers:
            rows = self._index.marks(number)
            with suppress(StoreError):
                said = marks.fold(sorted(marks.parse(name, data) for name, data in rows))
                self._index.say(number, said)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the collector of cycles: it would walk through all documents of a batch, which have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def is_run_id(name: str) -> bool:
    """Whether a name in a month's folder is a run's."""
    try:
        parse_run_id(name)
    except MirageError:
        return False
    return True
