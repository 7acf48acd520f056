"""The index: an SQLite file of facts about sealed runs, opened, written and thrown away here; the only SQL of writing.

It is never the truth: a file that is damaged, or of another schema, is removed and made anew from the store. Which
records it lacks is sync.py's part, what it answers ask.py's.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from orchestrator.canonical import Json
from orchestrator.catalog.facts import Fact, facts_of
from orchestrator.catalog.number import id_of, month_range
from orchestrator.errors import StoreError

SCHEMA = 3  # counts up with every change of the tables, or of what is put into them
# Facts in one statement: three values each, and old SQLite takes 999 (sqlite.org/limits.html).
_TOGETHER = 200
_BUSY = 30.0  # seconds to wait for another process's write, which takes a fraction of one
_NETWORKS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse",
    "lustre",
    "gpfs",
    "ceph",
    "afs",
    "beegfs",
    "vboxsf",
    "prl_fs",
)
_TABLES = """
CREATE TABLE months(name TEXT PRIMARY KEY, signature TEXT, since REAL, settled INTEGER) WITHOUT ROWID;
CREATE TABLE runs(run INTEGER PRIMARY KEY);
CREATE TABLE documents(run INTEGER PRIMARY KEY, summary TEXT NOT NULL, config TEXT NOT NULL);
CREATE TABLE paths(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL);
CREATE TABLE facts(path INTEGER, value, run INTEGER, PRIMARY KEY(path, value, run)) WITHOUT ROWID;
CREATE TABLE marks(name TEXT PRIMARY KEY, run INTEGER NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX marks_of_a_run ON marks(run);
CREATE TABLE pending(key TEXT PRIMARY KEY, problem TEXT) WITHOUT ROWID;
"""

Damaged = sqlite3.DatabaseError  # also where the file cannot be read or written: see ``is_damage``


class Entry(NamedTuple):
    """A run as it goes into the index: both parts as JSON text and as what that says."""

    number: int
    summary: str
    config: str
    values: tuple[dict[str, Json], dict[str, Json]]


class Month(NamedTuple):
    """A month as it was when it was listed: its signature, and since when (seconds) it has been that."""

    signature: str
    since: float
    settled: bool


class Index:
    """An open index. All its calls raise ``Damaged`` where the file is."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.sql = database
        self._ids: dict[str, tuple[int, int]] = {}

    def months(self) -> dict[str, Month]:
        """The months that were listed before."""
        rows = self.sql.execute("SELECT name, signature, since, settled FROM months")
        return {name: Month(signature, since, bool(settled)) for name, signature, since, settled in rows}

    def pending(self) -> dict[str, str | None]:
        """Keys that gave no row yet, with what is wrong with them (None: nothing there yet)."""
        return dict(self.sql.execute("SELECT key, problem FROM pending"))

    def runs_of_month(self, month: str) -> set[str]:
        """The ids of a month's runs that are in."""
        rows = self.sql.execute("SELECT run FROM runs WHERE run >= ? AND run < ?", month_range(month))
        return {id_of(number) for (number,) in rows}

    def marks_of_month(self, month: str) -> set[str]:
        """The names of the marks of a month's runs that are in."""
        digits = month.replace("-", "")
        span = (digits, f"{digits}:")  # a colon comes after the digits
        return {
            name for (name,) in self.sql.execute("SELECT name FROM marks WHERE name >= ? AND name < ?", span)
        }

    def marks(self, number: int) -> list[tuple[str, bytes]]:
        """A run's marks, each its name and bytes."""
        return self.sql.execute("SELECT name, data FROM marks WHERE run = ?", (number,)).fetchall()

    def marked(self, numbers: list[int]) -> set[int]:
        """Those of the runs that have marks."""
        if self.sql.execute("SELECT 1 FROM marks LIMIT 1").fetchone() is None:
            return set()
        return {each for each in numbers if self.marks(each)}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction; waits for that of another process."""
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._ids.clear()
            if self.sql.in_transaction:
                self.sql.execute("ROLLBACK")
            raise
        self.sql.execute("COMMIT")

    def listed(self, name: str, month: Month | None) -> None:
        """Remember how a month looked, all of whose names are taken care of; None forgets it."""
        if month is None:
            self.sql.execute("DELETE FROM months WHERE name = ?", (name,))
        else:
            values = (name, month.signature, month.since, month.settled)
            self.sql.execute("INSERT OR REPLACE INTO months VALUES (?, ?, ?, ?)", values)

    def postpone(self, key: str, problem: str | None) -> None:
        """Look at a key again the next time."""
        self.sql.execute("INSERT OR REPLACE INTO pending VALUES (?, ?)", (key, problem))

    def settle(self, keys: Iterable[str]) -> None:
        """These keys are taken care of."""
        self.sql.executemany("DELETE FROM pending WHERE key = ?", [(key,) for key in keys])

    def add(self, entries: Iterable[Entry]) -> None:
        """Take runs in, in the place of what was known of them."""
        entries = {entry.number: entry for entry in entries}.values()
        self.remove([entry.number for entry in entries])
        of_path: dict[int, list[tuple[int, Fact, int]]] = {}
        for entry in entries:
            for row in self._facts(entry.number, *entry.values):
                of_path.setdefault(row[0], []).append(row)
        for _, rows in sorted(of_path.items()):
            with suppress(TypeError):  # numbers and strings under one path have no order here, and need none
                rows.sort()  # neighbours in the tree, one after the other
            self._insert(rows)
        self.sql.executemany("INSERT INTO runs VALUES (?)", [(entry.number,) for entry in entries])
        self.sql.executemany(
            "INSERT INTO documents VALUES (?, ?, ?)", [(e.number, e.summary, e.config) for e in entries]
        )

    def _insert(self, rows: list[tuple[int, Fact, int]]) -> None:
        """Put facts in, many in one statement: that takes half the time of one by one."""
        whole = len(rows) // _TOGETHER * _TOGETHER
        words = "INSERT OR IGNORE INTO facts VALUES (?, ?, ?)"
        many = words + ", (?, ?, ?)" * (_TOGETHER - 1)
        pieces = (rows[at : at + _TOGETHER] for at in range(0, whole, _TOGETHER))
        self.sql.executemany(many, (tuple(chain.from_iterable(piece)) for piece in pieces))
        self.sql.executemany(words, rows[whole:])

    def _facts(
        self, run: int, summary: dict[str, Json], config: dict[str, Json]
    ) -> list[tuple[int, Fact, int]]:
        found = facts_of(summary, config)
        ids = self._ids
        for path, kind, _ in found:
            known = ids.get(path)
            if known is None or known[1] < kind:
                self._learn(path, kind)
        return [(ids[path][0], value, run) for path, _, values in found for value in values]

    def _learn(self, name: str, kind: int) -> None:
        """Give a path its id, and remember the worst that was seen of it."""
        self.sql.execute(
            "INSERT INTO paths(name, kind) VALUES (?, ?) "
            "ON CONFLICT(name) DO UPDATE SET kind = max(kind, excluded.kind)",
            (name, kind),
        )
        self._ids[name] = self.sql.execute("SELECT id, kind FROM paths WHERE name = ?", (name,)).fetchone()

    def remove(self, numbers: list[int]) -> None:
        """Forget runs."""
        newest = self.sql.execute("SELECT max(run) FROM runs").fetchone()[0]
        # Runs that are newer than all are most often what is asked of, and are not there.
        known = [each for each in numbers if newest is not None and each <= newest and self._has(each)]
        if known:
            self.sql.execute("CREATE TEMP TABLE IF NOT EXISTS gone(run INTEGER PRIMARY KEY)")
            self.sql.execute("DELETE FROM gone")
            self.sql.executemany("INSERT OR IGNORE INTO gone VALUES (?)", [(each,) for each in known])
            for table in ("facts", "runs", "documents"):
                self.sql.execute(f"DELETE FROM {table} WHERE run IN (SELECT run FROM gone)")

    def _has(self, number: int) -> bool:
        return self.sql.execute("SELECT 1 FROM runs WHERE run = ?", (number,)).fetchone() is not None

    def say(self, number: int, said: dict[str, Json]) -> None:
        """Put fields into a run's flat object, in the place of the same ones before."""
        found = self.sql.execute("SELECT summary FROM documents WHERE run = ?", (number,)).fetchone()
        if found is None:
            return  # a mark of a run whose record is not here (yet)
        before = json.loads(found[0])
        gone = self._facts(number, {name: before.get(name) for name in said}, {})
        rows = self._facts(number, said, {})
        summary = {**before, **said}
        self.sql.executemany("DELETE FROM facts WHERE path = ? AND value = ? AND run = ?", gone)
        self.sql.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?, ?)", rows)
        self.sql.execute("UPDATE documents SET summary = ? WHERE run = ?", (_text(summary), number))


def entry(number: int, summary: dict[str, Json], config: dict[str, Json]) -> Entry:
    """A run for ``Index.add``. Raises StoreError for text that is none (half a surrogate pair)."""
    try:
        found = Entry(number, _text(summary), _text(config), (summary, config))
        found.summary.encode()
        found.config.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"it holds text that is not Unicode: {error}") from error
    return found


_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def open_index(path: Path, *, anew: bool = False) -> Index:
    """The index in a file, made where there is none, or where it is damaged, of another schema, or ``anew``.

    Where the file cannot be written it is one in memory, as good but for one question only. The lock is for those
    who replace the file: nobody may then have opened it and not yet its log, which goes by the file's name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if anew else fcntl.LOCK_SH)
            if not anew:
                found = _opened(path)
                if found is not None:
                    return found
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = _opened(path)  # another process may have made it meanwhile
                if found is not None:
                    return found
            for suffix in ("", "-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{path}{suffix}")
            return _made(_connect(str(path)), path)
    except (OSError, sqlite3.Error):
        return in_memory()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file itself is bad: not that it is busy, or that it cannot be written here."""
    words = ("locked", "readonly", "full", "unable to open", "disk I/O")
    return not any(word in str(error) for word in words)


def in_memory() -> Index:
    """An index that nobody else sees, gone with the process."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(_TABLES)
    return Index(database)


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA cache_size = -65536")
    return database


def _opened(path: Path) -> Index | None:
    """The index as it lies there; None where it is not one that can be used."""
    if not path.exists():
        return None
    database = None
    try:
        database = _connect(str(path))
        (schema,) = database.execute("PRAGMA user_version").fetchone()
        if schema == SCHEMA:
            database.execute("SELECT count(*) FROM months").fetchone()
            return Index(database)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise  # someone writes for longer than we wait: the file is fine, and stays
    except sqlite3.Error:
        pass
    if database is not None:
        database.close()
    return None


def _made(database: sqlite3.Connection, path: Path) -> Index:
    # The log in shared memory works on one machine only (sqlite.org/wal.html); the plain journal has locks that
    # network file systems pass on.
    database.execute(f"PRAGMA journal_mode = {'DELETE' if _is_network(path) else 'WAL'}")
    database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    return Index(database)


def _is_network(path: Path) -> bool:
    """Whether the file system that holds a file is one that several machines can have (proc(5), mountinfo)."""
    try:
        device = os.stat(path.parent).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            if line.split()[2] == wanted:
                return line.partition(" - ")[2].startswith(_NETWORKS)
    except (OSError, IndexError):
        pass
    return False
