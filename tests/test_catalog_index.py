"""The index of runs: it answers as the records themselves would, misses nothing, and is never the truth."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.canonical import Json
from orchestrator.catalog import Catalog, marks, reading
from orchestrator.catalog import ask as asking
from orchestrator.catalog import sync as syncing
from orchestrator.catalog.ask import select
from orchestrator.catalog.fields import look_up
from orchestrator.catalog.index import SCHEMA, entry, in_memory
from orchestrator.catalog.number import id_of, month_range, number_of
from orchestrator.errors import ConfigError
from orchestrator.journal import RunFolders
from orchestrator.reference import RunId
from orchestrator.store.folder import FolderStore
from orchestrator.where import Lookup, matches, order, parse, parse_sort
from tests.record_tools import Records, run_id


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str, detail: str = "") -> None: ...
    def note(self, text: str) -> None: ...
    def detail(self, text: str) -> None: ...
    def log(self, stream: str, data: bytes) -> None: ...

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None: ...

    def event(self, name: str, fields: Mapping[str, Any]) -> None: ...
    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Place:
    """A store of made-up runs with a project's catalog over it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.records = Records(top / ".mirage" / "artifacts")
        self.heard = Heard()

    def catalog(self) -> Catalog:
        return Catalog(
            FolderStore.open_at(self.records.folder),
            RunFolders(self.top / ".mirage" / "runs", self.top / ".mirage" / "open"),
            self.heard,
        )

    def ids(
        self, question: str | None = None, sort: str | None = None, limit: int | None = None
    ) -> list[str]:
        """What a new process would answer."""
        expression = None if question is None else parse(question)
        found = self.catalog().select(expression, None if sort is None else parse_sort(sort), limit)
        return [each.run_id for each in found]

    @property
    def file(self) -> Path:
        (found,) = (self.top / ".mirage" / "cache").glob("index-*.sqlite")
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_many_records_are_read_by_helpers_and_none_is_lost_with_one(
    place: Place, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    for number in range(90):
        place.records.add(run_id(number), metrics={"x": number / 90})
    place.records.record_path(run_id(7)).chmod(0o644)
    place.records.record_path(run_id(7)).write_bytes(b"{")
    ended: list[int] = []
    monkeypatch.setattr(reading, "MANY", 10)
    monkeypatch.setattr(reading, "BATCH", 20)

    class Helper(reading._Helper):
        def next(self) -> reading.Batch | None:
            if killed and len(ended) == 3:  # one of the two, with a part of its batches still to come
                os.kill(self._pid, signal.SIGKILL)
                self._source.close()
                self._source = open(os.devnull)  # noqa: SIM115  # as far as it was read
            ended.append(self._pid)
            return super().next()

    monkeypatch.setattr(reading, "_Helper", Helper)
    wanted = [run_id(number) for number in range(89, -1, -1) if number != 7]
    assert place.ids() == wanted
    assert place.ids("x < 1") == [] and place.ids("metrics.x < 0.5") == [
        each for each in wanted if each < run_id(45)
    ]
    assert len(place.heard.warnings) == 3 and all(run_id(7) in each for each in place.heard.warnings)
    assert len(set(ended)) == 2 and len(ended) == 9
    for pid in set(ended):
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # both are waited for


# The same answers as where.matches

WORDS = st.sampled_from(["a", "b", "main", "experiment/a", "", "é", "0.5", "null", "\U0001f600", "aB", "a*"])
NUMBERS = st.sampled_from([0, 1, -1, 0.5, 0.885, 0.89, 0.895, 1e-3, 1e17, 2**53 - 1, -0.0, 1e300, 5e-324])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
NAMES = st.sampled_from(["x", "y", "0", "acc.top", "z-1"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=6,
)
RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "summary": st.fixed_dictionaries(
                {
                    "status": WORDS,
                    "branch": st.none() | WORDS,
                    "dirty": st.booleans(),
                    "exit_code": st.none() | NUMBERS,
                    "tags": st.lists(WORDS, max_size=2),
                    "metrics": st.dictionaries(NAMES, st.none() | NUMBERS, max_size=3),
                }
            ),
            "config": st.dictionaries(NAMES, VALUES, max_size=3),
        }
    ),
    max_size=6,
)
ALL_PATHS = (
    ["status", "branch", "dirty", "exit_code", "tags", "metrics", "metrics.x", "metrics.y", "metrics.acc.top",
     "metrics.0", "config.x", "config.y", "config.x.y", "config.x.0", "config.y.x.0", "config.0", "config", "tags.0",
     "tags.00", "nothing", "config.acc.top", "status.x"]
)  # fmt: skip
PATHS = st.sampled_from(ALL_PATHS)
ALL_TEXTS = (
    ["0", "1", "-1", "0.5", "0.89", "0.9", "0.890", "1e-3", "0.00", "1e17", "1e300", "1e308", "0e9", "null", "true", "false",
     "a", "main", "'0.5'", "''", "é", "'null'", "*", "a*", "'[a-m]*'", "'?'", "experiment/*", "'*[*]'", "\U0001f600"]
)  # fmt: skip
TEXTS = st.sampled_from(ALL_TEXTS)
COMPARISONS = st.tuples(PATHS, st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "~"]), TEXTS).map(" ".join)
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) and ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) or ({two[1]})"),
    ),
    max_leaves=4,
)


def look(row: tuple[RunId, dict[str, Any]], path: str) -> Json:
    return look_up(path, lambda: row[1]["summary"], lambda: row[1]["config"])


def looking(row: tuple[RunId, dict[str, Any]]) -> Lookup:
    return lambda path: look(row, path)


@given(RUNS, EXPRESSIONS, st.none() | st.tuples(PATHS, st.booleans()), st.none() | st.integers(1, 4))
@settings(max_examples=600, deadline=None)
def test_the_index_answers_as_the_records_would(
    runs: list[dict[str, Any]], question: str, sort: tuple[str, bool] | None, limit: int | None
) -> None:
    index = in_memory()
    ids = [run_id(at * 1000) for at in range(len(runs))]
    with index.writing():
        index.add(entry(number_of(i), r["summary"], r["config"]) for i, r in zip(ids, runs, strict=True))
    expression = parse(question)

    expected = list(zip(ids, runs, strict=True))[::-1]
    expected = [row for row in expected if matches(expression, looking(row))]
    by = None if sort is None else parse_sort(("-" if sort[1] else "") + sort[0])
    if by is not None:
        expected = order(expected, by, look)
    found = select(index, expression, by, limit)
    assert [each.run_id for each in found] == [each for each, _ in expected][:limit]
    for each, (_, run) in zip(found, expected, strict=False):
        assert each.summary() == run["summary"] and each.config() == run["config"]


FIXED: list[dict[str, Any]] = [
    {"summary": {"status": status, "branch": branch, "dirty": dirty, "exit_code": code, "tags": tags, "metrics": metrics},
     "config": config}
    for status, branch, dirty, code, tags, metrics, config in [
        ("a", "main", True, 0, ["a", "b"], {"x": 0.885, "acc.top": 1}, {"x": 1, "acc.top": 5, "y": {"x": [1, None]}}),
        ("a", None, False, 1, [], {"x": 0.885, "y": None}, {"x": True, "acc": {"top": "a"}, "y": []}),
        ("b", "experiment/a", True, None, ["null"], {"x": 0.895, "0": 5}, {"x": "0.5", "y": [0.5, "a", {"z": 1}], "0": 1}),
        ("", "0.5", False, 0.5, ["a"], {"x": 0.894999}, {"x": [], "y": {"x": "a"}}),
        ("null", "aB", True, -1, ["0.5"], {"y": 1e300, "x": -0.0}, {"x": [None], "y": False}),
        ("\U0001f600", "a*", False, 1e17, ["*"], {"x": 0}, {"x": [[1], 2**53 - 1], "y": None}),
        ("main", "b", False, 0.89, ["a", "a"], {}, {"x": {"y": 0.5, "0": "a"}, "y": "a"}),
    ]
]  # fmt: skip


def fixed() -> tuple[Any, list[tuple[RunId, dict[str, Any]]]]:
    index = in_memory()
    runs = [(run_id(at * 1000), run) for at, run in enumerate(FIXED)]
    with index.writing():
        index.add(entry(number_of(i), r["summary"], r["config"]) for i, r in runs)
    return index, runs[::-1]


@pytest.mark.parametrize("early", [0, 3, 256])
@pytest.mark.parametrize("path", ALL_PATHS)
def test_every_comparison_answers_as_the_records_would(
    path: str, early: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_EARLY", early)
    index, runs = fixed()
    for operator in ("=", "!=", "<", "<=", ">", ">=", "~"):
        for text in ALL_TEXTS:
            expression = parse(f"{path} {operator} {text}")
            expected = [row[0] for row in runs if matches(expression, looking(row))]
            for limit in (None, 2):
                found = [each.run_id for each in select(index, expression, None, limit)]
                assert found == expected[:limit], (path, operator, text, limit)


@pytest.mark.parametrize("path", ALL_PATHS)
def test_every_order_is_that_of_the_records(path: str) -> None:
    index, runs = fixed()
    for sign in ("", "-"):
        for question in (None, "dirty = false"):
            by, expression = parse_sort(sign + path), None if question is None else parse(question)
            chosen = [r for r in runs if question is None or not r[1]["summary"]["dirty"]]
            expected = [i for i, _ in order(chosen, by, look)]
            for limit in (None, 1, 3, 6):
                assert [e.run_id for e in select(index, expression, by, limit)] == expected[:limit], (
                    sign,
                    limit,
                )


def test_a_long_list_in_a_config_is_searched_too(place: Place) -> None:
    place.records.add(run_id(1), config={"sizes": list(range(1000))})
    place.records.add(run_id(2), config={"sizes": [7]})
    assert place.ids("config.sizes = 999") == [run_id(1)]
    assert place.ids("config.sizes = 7") == [run_id(2), run_id(1)]
    assert place.ids("config.sizes != 999") == [run_id(2)]


@given(st.tuples(*[st.integers(0, top) for top in (9999, 12, 31, 24, 60, 61, 0xFFFFFF)]))
def test_a_number_of_a_run_is_its_id_and_its_order(parts: tuple[int, ...]) -> None:
    year, month, day, hour, minute, second, random = parts
    one = RunId(f"{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{random:06x}")
    assert id_of(number_of(one)) == one and 0 <= number_of(one) < 2**63
    other = run_id(random)
    assert (one < other) == (number_of(one) < number_of(other))
    if month:
        first, last = month_range(f"{year:04}-{month:02}")
        assert first <= number_of(one) < last


def test_an_id_of_no_moment_has_no_number() -> None:
    with pytest.raises(ConfigError):
        number_of(RunId("20261399-000000-000000"))


# Nothing is missed


def test_a_record_that_comes_late_is_found(place: Place) -> None:
    for number in (5, 9):
        place.records.add(run_id(number))
    assert place.ids() == [run_id(9), run_id(5)]
    place.records.add(run_id(2))  # another machine's, older than what is known
    place.records.add(run_id(50_000))  # in a month of its own
    assert place.ids() == [run_id(50_000), run_id(9), run_id(5), run_id(2)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "SETTLING", 0.05)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The months that were listed."""
    from orchestrator.catalog.listing import FolderListing

    found: list[str] = []
    real = FolderListing.names

    def names(self: FolderListing, month: str) -> list[str]:
        found.append(month)
        return real(self, month)

    monkeypatch.setattr(FolderListing, "names", names)
    yield found


@pytest.mark.usefixtures("quick")
def test_a_month_that_did_not_change_is_not_listed_again(place: Place, listed: list[str]) -> None:
    place.records.add(run_id(1))
    for _ in range(3):
        place.ids()
        time.sleep(0.06)
    assert listed.count("runs/2026-01") == 2  # once more, when its signature had stood for a while
    place.records.add(run_id(2))
    assert place.ids() == [run_id(2), run_id(1)]
    assert listed.count("runs/2026-01") == 3


@pytest.mark.usefixtures("quick")
def test_a_name_made_while_the_clock_stood_still_is_found(place: Place) -> None:
    """A file system whose clock moves every two seconds: two names, one time stamp."""
    month = place.records.folder / "runs" / "2026-01"
    place.records.add(run_id(1))
    before = month.stat()
    assert place.ids() == [run_id(1)]
    place.records.add(run_id(2))
    os.utime(month, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.ids() == [run_id(2), run_id(1)]


@pytest.mark.usefixtures("quick")
def test_a_folder_whose_record_comes_later_is_looked_at_each_time(place: Place) -> None:
    place.records.add(run_id(1))
    late = place.records.record_path(run_id(2))
    late.parent.mkdir()
    for _ in range(3):
        assert place.ids() == [run_id(1)]
        time.sleep(0.06)
    record = place.records.add(run_id(3))
    place.records.record_path(run_id(3)).unlink()
    place.records.record_path(run_id(3)).parent.rmdir()
    for _ in range(3):
        assert place.ids() == [run_id(1)]
        time.sleep(0.06)
    signature = late.parent.parent.stat()
    late.write_bytes(record)
    assert late.parent.parent.stat().st_mtime_ns == signature.st_mtime_ns  # the month says nothing of it
    assert place.ids() == [run_id(2), run_id(1)]
    assert place.heard.warnings == []


@pytest.mark.usefixtures("quick")
def test_a_mark_whose_folder_was_set_back_in_time_is_found(place: Place) -> None:
    """rsync and cp -p set a folder's time stamp; its change time nobody sets."""
    place.records.add(run_id(1))
    marks.add(place.records.store, run_id(1), "tag", ["one"])
    for _ in range(2):
        assert place.ids("tags = one") == [run_id(1)]
        time.sleep(0.06)
    month = place.records.folder / "marks" / "2026-01"
    before = month.stat()
    marks.add(place.records.store, run_id(1), "tag", ["two"])
    os.utime(month, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.ids("tags = two") == [run_id(1)]


def test_a_listing_that_is_older_than_the_index_forgets_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process listed the month before a run came, and compares after we took it in."""
    for number in (1, 2):
        place.records.add(run_id(number))
    assert place.ids() == [run_id(2), run_id(1)]
    from orchestrator.catalog.listing import FolderListing

    monkeypatch.setattr(FolderListing, "names", lambda self, month: [run_id(1)])
    assert place.ids() == [run_id(2), run_id(1)]


@pytest.mark.usefixtures("quick")
def test_a_record_that_is_gone_is_forgotten(place: Place) -> None:
    for number in (1, 2, 50_000):
        place.records.add(run_id(number), metrics={"accuracy": 0.5})
    assert len(place.ids("metrics.accuracy = 0.5")) == 3
    for number in (1, 50_000):
        place.records.record_path(run_id(number)).unlink()
        place.records.record_path(run_id(number)).parent.rmdir()
    place.records.record_path(run_id(50_000)).parent.parent.rmdir()
    assert place.ids("metrics.accuracy = 0.5") == [run_id(2)]
    assert place.ids() == [run_id(2)]


def test_a_damaged_record_is_told_each_time_and_taken_once_it_is_whole(place: Place) -> None:
    place.records.add(run_id(1))
    record = place.records.add(run_id(2))
    path = place.records.record_path(run_id(2))
    path.chmod(0o644)
    path.write_bytes(record[:-7])
    for count in (1, 2):
        assert place.ids() == [run_id(1)]
        assert len(place.heard.warnings) == count and "damaged" in place.heard.warnings[-1]
    path.write_bytes(record)
    assert place.ids() == [run_id(2), run_id(1)]
    assert len(place.heard.warnings) == 2


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"predicate": 3}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"predicate": {"runDetails": {"mirage_result": {}}}}',
    ],
)
def test_what_is_no_record_is_a_warning(place: Place, record: bytes) -> None:
    place.records.add(run_id(1))
    path = place.records.record_path(run_id(2))
    path.parent.mkdir()
    path.write_bytes(record)
    (path.parent.parent / "notes.txt").write_text("not a run")
    assert place.ids() == [run_id(1)]
    assert len(place.heard.warnings) == 1
    assert [row.run_id for row in place.catalog().rows()] == [run_id(1)]


def test_a_run_whose_config_is_missing_is_listed_and_told(place: Place) -> None:
    place.records.add(run_id(1), config={"lr": 0.1})
    found = place.catalog().find(run_id(1))
    blob = place.records.blob(found.definition["internalParameters"]["configHash"])
    kept = blob.read_bytes()
    blob.unlink()
    assert place.ids() == [run_id(1)] and place.ids("config.lr = 0.1") == []
    assert "its config cannot be read" in place.heard.warnings[0]
    blob.write_bytes(kept)
    assert place.ids("config.lr = 0.1") == [run_id(1)]


# It is never the truth


def broken(file: Path, how: str) -> None:
    if how not in ("older", "without a table"):
        for each in file.parent.glob(f"{file.name}-*"):
            each.unlink()
    data = file.read_bytes()
    if how == "empty":
        file.write_bytes(b"")
    elif how == "not a database":
        file.write_bytes(b"x" * 10_000)
    elif how == "cut":
        file.write_bytes(data[: len(data) // 2 // 4096 * 4096])
    elif how == "zeroed":
        file.write_bytes(data[:4096] + bytes(len(data) - 4096))
    elif how == "older":
        with sqlite3.connect(file) as database:
            database.execute(f"PRAGMA user_version = {SCHEMA - 1}")
            database.execute("DELETE FROM facts")  # as if that version had known less
        database.close()
    elif how == "without a table":
        with sqlite3.connect(file) as database:
            database.execute("DROP TABLE documents")
        database.close()
    elif how == "a folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize(
    "how", ["empty", "not a database", "cut", "zeroed", "older", "without a table", "a folder"]
)
def test_a_file_that_cannot_be_used_is_made_anew(place: Place, how: str) -> None:
    for number in range(40):
        place.records.add(run_id(number), metrics={"accuracy": number / 100})
    assert len(place.ids("metrics.accuracy >= 0.2")) == 20
    broken(place.file, how)
    assert len(place.ids("metrics.accuracy >= 0.2")) == 20
    assert len(place.ids()) == 40
    if how != "a folder":
        with sqlite3.connect(place.file) as database:
            assert database.execute("SELECT count(*) FROM runs").fetchone() == (40,)
        database.close()


def test_a_file_that_goes_bad_under_an_open_catalog_is_made_anew(place: Place) -> None:
    for number in range(40):
        place.records.add(run_id(number))
    catalog = place.catalog()
    assert len(catalog.select()) == 40
    broken(place.file, "not a database")
    assert len(catalog.select()) == 40


def test_it_can_be_thrown_away_at_any_time(place: Place) -> None:
    place.records.add(run_id(1))
    catalog = place.catalog()
    assert len(catalog.select()) == 1
    place.file.unlink()
    place.records.add(run_id(2))
    assert len(catalog.select()) == 2
    assert place.ids() == [run_id(2), run_id(1)]
    catalog.rebuild()
    assert len(catalog.select()) == 2


def test_where_nothing_can_be_written_the_answer_is_the_same(place: Place) -> None:
    place.records.add(run_id(1), metrics={"accuracy": 0.5})
    cache = place.top / ".mirage" / "cache"
    cache.write_text("in the way")  # for root, too, no folder can be made here
    assert place.ids("metrics.accuracy = 0.5") == [run_id(1)]
    assert cache.read_text() == "in the way"


def test_a_store_without_runs_is_asked_without_a_trace(place: Place) -> None:
    assert place.ids() == []
    assert not (place.top / ".mirage" / "cache").exists()


def test_another_store_has_another_index(place: Place, tmp_path: Path) -> None:
    place.records.add(run_id(1))
    assert place.ids() == [run_id(1)]
    other = Records(tmp_path / "other")
    other.add(run_id(2))
    folders = RunFolders(place.top / ".mirage" / "runs", place.top / ".mirage" / "open")
    assert [each.run_id for each in Catalog(other.store, folders, place.heard).select()] == [run_id(2)]
    assert place.ids() == [run_id(1)]
    assert len(list((place.top / ".mirage" / "cache").glob("index-*.sqlite"))) == 2


def _ask(top: str, count: int, answers: Any) -> None:
    place = Place(Path(top))
    seen: list[int] = []
    while not seen or seen[-1] < count:
        seen.append(len(place.ids("metrics.accuracy >= 0.0")))
    answers.put((seen == sorted(seen), seen[-1], place.heard.warnings))


def test_many_processes_ask_while_runs_are_sealed(place: Place) -> None:
    count, askers = 60, 6
    place.records.add(run_id(0), metrics={"accuracy": 0.0})
    fork = multiprocessing.get_context("spawn")
    answers = fork.Queue()
    processes = [fork.Process(target=_ask, args=(str(place.top), count, answers)) for _ in range(askers)]
    for process in processes:
        process.start()
    for number in range(1, count):
        place.records.add(run_id(number), metrics={"accuracy": number / 100})
        if number == count // 2:
            broken(place.file, "not a database") if place.top.joinpath(".mirage/cache").exists() else None
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
    assert found == [(True, count, [])] * askers  # nobody ever saw fewer runs than before


# Marks


def test_what_is_said_of_a_run_is_found(place: Place) -> None:
    for number in (1, 2):
        place.records.add(run_id(number))
    assert place.ids("tags = best") == [] and place.ids("tags != best") == [run_id(2), run_id(1)]
    store = place.records.store
    marks.add(store, run_id(1), "tag", ["best", "paper"])
    marks.add(store, run_id(1), "note", ["a first try"])
    assert place.ids("tags = best") == [run_id(1)]
    assert place.ids("notes ~ *first*") == [run_id(1)]
    (found,) = place.catalog().select(parse("tags = paper"))
    assert found.summary()["tags"] == ["best", "paper"] and found.summary()["notes"] == ["a first try"]
    assert place.catalog().find(run_id(1)).summary() == found.summary()
    marks.add(store, run_id(1), "untag", ["best"])
    assert place.ids("tags = best") == [] and place.ids("tags = paper") == [run_id(1)]
    assert [mark.kind for mark in marks.of_run(store, run_id(1))] == ["tag", "tag", "note", "untag"]


def test_marks_come_before_or_after_their_record(place: Place) -> None:
    place.records.add(run_id(1))
    marks.add(place.records.store, run_id(2), "tag", ["early"])
    assert place.ids("tags = early") == []
    place.records.add(run_id(2))
    assert place.ids("tags = early") == [run_id(2)]
    catalog = place.catalog()
    catalog.rebuild()
    assert [each.run_id for each in catalog.select(parse("tags = early"))] == [run_id(2)]


def test_a_mark_comes_after_those_of_a_machine_whose_clock_is_ahead(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.records.add(run_id(1))
    monkeypatch.setattr(time, "time_ns", lambda: 2_000_000_000_000_000_000)
    marks.add(place.records.store, run_id(1), "tag", ["best"])
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000_000_000_000)
    marks.add(place.records.store, run_id(1), "untag", ["best"])
    assert place.ids("tags = best") == []


def test_a_damaged_mark_is_a_warning_and_the_run_is_listed(place: Place) -> None:
    place.records.add(run_id(1))
    marks.add(place.records.store, run_id(1), "tag", ["best"])
    (path,) = (place.records.folder / "marks" / "2026-01").iterdir()
    path.chmod(0o644)
    path.write_bytes(json.dumps({"schema": "mirage-mark/1"}).encode())
    assert place.ids() == [run_id(1)]
    assert "damaged" in place.heard.warnings[0]


@pytest.mark.parametrize(
    "kind,text",
    [("tag", ""), ("tag", "a b"), ("tag", "-x"), ("tag", "x" * 65), ("note", "  "), ("note", "x" * 20_000)],
)
def test_what_cannot_be_said(place: Place, kind: str, text: str) -> None:
    place.records.add(run_id(1))
    with pytest.raises(ConfigError) as caught:
        marks.add(place.records.store, run_id(1), kind, ["fine", text])
    assert caught.value.hint
    assert marks.of_run(place.records.store, run_id(1)) == []


# Finding one run


def test_a_run_is_found_by_id_prefix_and_latest(place: Place) -> None:
    catalog = place.catalog()
    with pytest.raises(ConfigError, match="there is no run 'latest'") as caught:
        catalog.find("latest")
    assert caught.value.hint == "the store has no runs yet"
    for number in (1, 2, 3, 50_000):
        place.records.add(run_id(number))
    place.records.record_path(run_id(60_000)).parent.mkdir(parents=True)  # begun to be sealed, by someone
    assert catalog.find("latest").run_id == run_id(50_000)
    assert catalog.find(run_id(2)[:15]).run_id == run_id(2)
    assert catalog.find(run_id(2)).run_id == run_id(2)
    assert catalog.find(run_id(50_000)[:6]).run_id == run_id(50_000)
    for text in ("2026", "202601", "20260101-00"):
        with pytest.raises(ConfigError, match="more than one run"):
            catalog.find(text)
    for text in ("2025", "nonsense", "../../etc", run_id(60_000), "20260101-000200-ffffff", ""):
        with pytest.raises(ConfigError):
            catalog.find(text)
