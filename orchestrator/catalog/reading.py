"""Records and marks of a store as they go into the index: read here, or by two processes of our own where there are many.

Knows nothing of SQL. What cannot be read is told by key, and read again the next time.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.canonical import Json
from orchestrator.catalog import marks
from orchestrator.catalog.index import Entry, entry
from orchestrator.catalog.number import month_of, number_of
from orchestrator.catalog.row import Row
from orchestrator.errors import MirageError, StoreError
from orchestrator.reference import parse_run_id, record_key
from orchestrator.store.folder import FolderStore

if TYPE_CHECKING:
    from orchestrator.ports import Store

# Records in one transaction: the more, the more facts go to each page of the index; 4,000 need some 60 MiB.
BATCH = 4000
MANY = 10_000  # from so many on, helpers are worth their start
_HELPERS = 2


@dataclass
class Batch:
    """What some keys hold: entries, marks, and by key what is wrong (None: nothing there yet)."""

    entries: list[Entry] = field(default_factory=list)
    said: list[tuple[str, int, bytes]] = field(default_factory=list)
    problems: dict[str, str | None] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)


def batches(store: Store, keys: list[str]) -> Generator[Batch, None, None]:
    """All that the keys hold, in their order. Close it where it is not read to its end."""
    if len(keys) < MANY or not isinstance(store, FolderStore) or threading.active_count() > 1:
        yield from (read(store, piece) for piece in _pieces(keys, BATCH))
        return
    pieces = _pieces(keys, BATCH // 2)  # two batches at a time are in memory, one in each helper
    helpers = [_Helper(store, pieces[number::_HELPERS]) for number in range(_HELPERS)]
    try:
        for at, piece in enumerate(pieces):
            # A helper that was killed (memory) costs time only: its part is read here.
            yield helpers[at % _HELPERS].next() or read(store, piece)
    finally:
        for helper in helpers:
            helper.end()


def _pieces(keys: list[str], size: int) -> list[list[str]]:
    return [keys[at : at + size] for at in range(0, len(keys), size)]


class _Helper:
    """A process that reads batches ahead, as far as its pipe takes them; it ends with the pipe, whoever dies first."""

    def __init__(self, store: Store, pieces: list[list[str]]) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(reading)
                with os.fdopen(writing, "w", encoding="ascii") as sink:
                    for piece in pieces:
                        sink.write(_line(read(store, piece)))
                        sink.flush()
                code = 0
            finally:  # nothing of the parent's is to be run again here: no handler, no buffer
                os._exit(code)
        os.close(writing)
        self._source = os.fdopen(reading, encoding="ascii")

    def next(self) -> Batch | None:
        """The next of its batches; None where it died."""
        line = self._source.readline()
        return _batch(line) if line.endswith("\n") else None

    def end(self) -> None:
        """Take no more from it, and wait for its end: it fails at its next write."""
        self._source.close()
        os.waitpid(self._pid, 0)


def _line(found: Batch) -> str:
    """A batch as a line: of an entry its texts, which say all of it."""
    entries = [[each.number, each.summary, each.config] for each in found.entries]
    said = [[name, number, data.decode("latin-1")] for name, number, data in found.said]
    return json.dumps([entries, said, found.problems, found.settled]) + "\n"


def _batch(line: str) -> Batch:
    entries, said, problems, settled = json.loads(line)
    return Batch(
        [Entry(number, one, two, (json.loads(one), json.loads(two))) for number, one, two in entries],
        [(name, number, data.encode("latin-1")) for name, number, data in said],
        problems,
        settled,
    )


def read(store: Store, keys: list[str]) -> Batch:
    """What these keys hold."""
    found = Batch()
    for key in keys:
        try:
            if key.startswith("marks/"):
                found.said += _mark(store, key)
            else:
                found.entries.append(_entry(store, key, found.problems))
            found.settled.append(key)
        except _Absent:
            found.problems[key] = None
        except MirageError as error:
            found.problems[key] = error.message
    return found


def _entry(store: Store, key: str, problems: dict[str, str | None]) -> Entry:
    """A record as it goes into the index. One whose config is missing goes in without it, and is a problem."""
    run_id = parse_run_id(key.split("/")[2])
    if key != record_key(run_id):
        raise StoreError("it lies in the folder of another month")
    data = store.read(key)
    if data is None:
        raise _Absent
    row = Row(run_id, data, store)
    summary: dict[str, Json] = {**row.recorded(), **marks.fold(())}
    config: dict[str, Json] = {}
    try:
        config = row.config
    except MirageError as error:
        problems[key] = f"its config cannot be read: {error.message}"
    return entry(number_of(run_id), summary, config)


def _mark(store: Store, key: str) -> Iterator[tuple[str, int, bytes]]:
    name = key.rpartition("/")[2]
    run_id = marks.run_of(name)
    if run_id is None or month_of(run_id) != key.split("/")[1]:
        raise StoreError("it is not a mark of a run of this month")
    data = store.read(key)
    if data is None:
        raise _Absent
    marks.parse(name, data)
    yield name, number_of(run_id), data


class _Absent(Exception):
    """Nothing there, or not yet."""
