"""The catalog: all runs of a store, found by id or by a question, and the open ones of this project."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orchestrator.catalog import ask, listing
from orchestrator.catalog.index import Damaged, Index, in_memory, is_damage, open_index
from orchestrator.catalog.sync import Sync, is_run_id
from orchestrator.digest import of_bytes
from orchestrator.errors import ConfigError, MirageError
from orchestrator.journal import RunFolders, is_held
from orchestrator.reference import RunId, parse_run_id
from orchestrator.where import Expression, Sort

if TYPE_CHECKING:
    from orchestrator.catalog.row import Row
    from orchestrator.ports import Reporter, Store

_T = TypeVar("_T")
_SHOWN = 5
_ID = re.compile(r"[0-9a-f]{32}")


class Catalog:
    """All runs of a store, and the open ones of this project."""

    def __init__(self, store: Store, folders: RunFolders, reporter: Reporter) -> None:
        self._store = store
        self._folders = folders
        self._reporter = reporter
        self._index: Index | None = None

    def rows(self) -> Iterator[Row]:
        """The sealed runs from the store alone, newest first; a damaged record is warned of and passed over."""
        for name in listing.run_ids(self._store, ""):
            try:
                row = self._row(name)
                if row is None:
                    continue
                row.recorded()
            except MirageError as error:
                self._reporter.warn(f"{name}: {error.message}")
                continue
            yield row

    def _row(self, name: str) -> Row | None:
        """The run of this very id, or None where the store has no record of it."""
        if not is_run_id(name):
            return None
        from orchestrator.catalog.row import Row
        from orchestrator.reference import record_key

        run_id = parse_run_id(name)
        record = self._store.read(record_key(run_id))
        return None if record is None else Row(run_id, record, self._store)

    def select(
        self, expression: Expression | None = None, sort: Sort | None = None, limit: int | None = None
    ) -> list[ask.Indexed]:
        """The sealed runs that satisfy an expression, answered by the index; newest first without ``sort``."""
        return self.asking(lambda index: ask.select(index, expression, sort, limit))

    def asking(self, question: Callable[[Index], _T]) -> _T:
        """Ask the index, which is first brought up to the store, and is made anew where it turns out damaged."""
        months = listing.listing_of(self._store)
        if self._index is None:
            # No index of a store without runs: nothing to ask, nothing to leave behind.
            self._index = open_index(self._path()) if months.months() else in_memory()
        try:
            return self._asked(self._index, months, question)
        except Damaged as error:
            self._index.sql.close()
            self._index = open_index(self._path(), anew=True) if is_damage(error) else in_memory()
        try:
            return self._asked(self._index, months, question)
        except Damaged:
            self._index = in_memory()
            return self._asked(self._index, months, question)

    def _asked(self, index: Index, months: listing.Listing, question: Callable[[Index], _T]) -> _T:
        Sync(index, self._store, months, self._reporter).run()
        return question(index)

    def rebuild(self) -> None:
        """Make the index anew from the store at the next question."""
        if self._index is not None:
            self._index.sql.close()
        self._index = open_index(self._path(), anew=True)

    def _path(self) -> Path:
        """The index's file: one for each store, in this project's cache."""
        described = self._store.read("store.json") or b""
        try:
            name = str(json.loads(described)["id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            name = self._store.location
        # A store's id is random hex digits: taken as they are, no hash is needed for most questions.
        known = name[:16] if _ID.fullmatch(name) else of_bytes(name.encode())[7:23]
        return self._folders.runs.parent / "cache" / f"index-{known}.sqlite"

    def open_runs(self) -> Iterator[tuple[RunId, str]]:
        """The runs that are not tidied up: `running` while a process holds them, else `unfinished`."""
        for run_id in reversed(self._folders.unfinished()):
            yield run_id, "running" if is_held(self._folders, run_id) else "unfinished"

    def without_record(self) -> Iterator[tuple[RunId, str]]:
        """The open runs that have no record yet. One that has is told by it, whatever of it is still to be removed."""
        from orchestrator.reference import record_key

        for run_id, status in self.open_runs():
            if self._store.read(record_key(run_id)) is None:
                yield run_id, status

    def find(self, text: str) -> Row:
        """The run that an id, a unique prefix of one, or `latest` names. Raises ConfigError."""
        whole = self._row(text)
        if whole is not None:
            return whole
        prefix = "" if text == "latest" else text
        found: list[Row] = []
        for row in self._sealed(listing.run_ids(self._store, prefix)):
            found.append(row)
            if text == "latest":
                return row
            if len(found) == _SHOWN + 1:
                break
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(row.run_id for row in reversed(found[:_SHOWN]))
            raise ConfigError(f"{text!r} means more than one run: {ids}", hint="give more of the id")
        some = next(self._sealed(listing.run_ids(self._store, "")), None)
        hint = "`mirage ls` lists the runs" if some else "the store has no runs yet"
        if any(open_id.startswith(text) for open_id in self._folders.unfinished()):
            hint = "it is not finished: `mirage logs` shows its output, `mirage recover` seals it if its process died"
        elif is_run_id(text) and next(iter(self._store.keys(f"gc/hold/{text}/")), None) is not None:
            hint = (
                "it was begun on another machine, or in another clone, and has no record yet: `mirage recover` there, "
                "where its process died"
            )
        raise ConfigError(f"there is no run {text!r}", hint=hint)

    def _sealed(self, names: Iterable[str]) -> Iterator[Row]:
        for name in names:
            row = self._row(name)
            if row is not None:
                yield row
