"""The journal of a run: what is written is durable and readable, and one process at a time holds a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import journal as journals
from orchestrator.errors import StoreError
from orchestrator.journal import Busy, Journal, RunFolders, begin, forget, is_held, read, take_over
from orchestrator.reference import RunId
from tests.store_tools import (
    FINE,
    REFUSED,
    in_child,
    injected,
    mounted,
    needs_root,
    open_descriptors,
)

RUN = RunId("20261125-120000-abcdef")


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    return RunFolders(tmp_path / ".mirage" / "runs", tmp_path / ".mirage" / "open")


def _events(folders: RunFolders) -> list[str]:
    return [line["event"] for line in read(folders, RUN)]


def test_a_run_is_open_until_it_is_closed(folders: RunFolders) -> None:
    assert folders.unfinished() == []
    assert list(read(folders, RUN)) == []
    journal = begin(folders, RUN, b"{}")
    assert folders.unfinished() == [RUN]
    assert is_held(folders, RUN)
    journal.write("start", handle="c1")
    assert [(line["event"], line.get("handle")) for line in read(folders, RUN)] == [
        ("begun", None),
        ("start", "c1"),
    ]
    journal.close()
    assert folders.unfinished() == []
    assert not is_held(folders, RUN)
    assert _events(folders) == ["begun", "start", "closed"]
    assert (folders.of(RUN) / "plan.json").read_bytes() == b"{}"


@pytest.mark.parametrize("error", ["EIO", "EROFS"])
def test_a_marker_that_cannot_be_removed_harms_no_sealed_run(
    folders: RunFolders, tmp_path: Path, error: str
) -> None:
    """The disk fails after the record is there: the run is closed all the same, and recovery removes the marker."""
    journal = begin(folders, RUN, b"{}")
    end, met = injected(journal.close, f"unlink:error={error}:when=1", tmp_path / "trace")
    assert (end, met) == (FINE, True)
    assert _events(folders) == ["begun", "closed"] and folders.unfinished() == [RUN]


def test_a_released_run_stays_open(folders: RunFolders) -> None:
    begin(folders, RUN, b"{}").release()
    assert folders.unfinished() == [RUN]
    assert not is_held(folders, RUN)


def test_a_run_is_begun_once(folders: RunFolders) -> None:
    journal = begin(folders, RUN, b"first")
    with pytest.raises(StoreError):
        begin(folders, RUN, b"second")
    assert (folders.of(RUN) / "plan.json").read_bytes() == b"first"
    assert folders.unfinished() == [RUN]
    journal.close()


def test_each_thing_is_durable_before_the_next_names_it(folders: RunFolders, tmp_path: Path) -> None:
    """The order of system calls: plan, its name, the marker, all folders' names, and only then `begun`."""
    trace = tmp_path / "trace"

    def action() -> None:
        begin(folders, RUN, b"plan").write("side-effect")
        Path("/after-the-journal").exists()

    # no fault is meant: the call that would meet it is not made
    injected(action, "chroot:error=EIO:when=1", trace, also="fsync,rename,mkdir,stat,newfstatat,write")
    seen = trace.read_text().splitlines()

    def at(pattern: str) -> int:
        found = [number for number, line in enumerate(seen) if re.search(pattern, line)]
        assert found, f"{pattern} is not in the trace"
        return found[0]

    run, top = re.escape(RUN), re.escape(str(tmp_path / ".mirage"))
    order = [
        rf"fsync\(\d+<{re.escape(str(tmp_path))}>",
        rf"mkdir\(\"{top}/runs/{run}\"",
        rf"fsync\(\d+<{top}/runs/{run}/\.plan\.json",
        rf"rename\(\"{top}/runs/{run}/\.plan",
        rf"rename\(\"{top}/open/\.{run}",
        rf"fsync\(\d+<{top}/runs/{run}>",
        r"write\(.*begun",
        rf"fsync\(\d+<{top}/runs/{run}/journal>",
        r"write\(.*side-effect",
        r"after-the-journal",
    ]
    places = [at(pattern) for pattern in order]
    assert places == sorted(places), list(zip(order, places, strict=True))

    def all_of(pattern: str) -> list[int]:
        return [number for number, line in enumerate(seen) if re.search(pattern, line)]

    begun, effect = at(r"write\(.*begun"), at(r"write\(.*side-effect")
    marker = at(rf"rename\(\"{top}/open/\.{run}")
    for folder in ("runs", "open"):
        synced = all_of(rf"fsync\(\d+<{top}/{folder}>")
        assert any(marker < place < begun for place in synced), f"{folder} is not durable before `begun`"
    synced = all_of(rf"fsync\(\d+<{top}/runs/{run}/journal>")
    assert any(begun < place < effect for place in synced)
    assert any(effect < place < at("after-the-journal") for place in synced)


def test_a_torn_last_line_is_passed_over_and_swallows_nothing(folders: RunFolders) -> None:
    journal = begin(folders, RUN, b"{}")
    journal.write("start")
    journal.release()
    path = folders.of(RUN) / "journal"
    whole = path.read_bytes()
    for cut in range(len(whole) - 2, whole.index(b"\n") + 1, -7):
        path.write_bytes(whole[:cut])
        assert _events(folders) == ["begun"]
        successor = take_over(folders, RUN)
        successor.write("adopt")
        successor.write("collect")
        successor.release()
        assert _events(folders) == ["begun", "adopt", "collect"], f"cut at {cut}"


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"{\n", b"[]\n", b"null\n", b"\n", b"\0" * 100 + b"\n"])
def test_a_damaged_line_hides_no_other(folders: RunFolders, line: bytes) -> None:
    begin(folders, RUN, b"{}").release()
    with (folders.of(RUN) / "journal").open("ab") as sink:
        sink.write(line)
    take_over(folders, RUN).close()
    assert _events(folders) == ["begun", "closed"]


def test_a_full_disk_is_told_and_the_next_line_is_whole(tmp_path: Path) -> None:
    needs_root()
    with mounted(tmp_path / "disk", "size=1m") as disk:
        folders = RunFolders(disk / "runs", disk / "open")
        journal = begin(folders, RUN, b"{}")
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as sink, pytest.raises(OSError, match="No space"):
            while True:
                sink.write(bytes(1 << 16))
        with pytest.raises(StoreError, match="No space left"):
            for _ in range(100):
                journal.write("big", text="x" * 3000)
        written = len(_events(folders))
        filler.unlink()
        journal.write("after")
        assert _events(folders)[written:] == ["after"]
        journal.close()


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path, folders: RunFolders) -> None:
    when = 1
    while True:
        name = RunId(f"20261125-120000-{when:06x}")
        end, met = injected(
            lambda name=name: begin(folders, name, b"{}"),  # type: ignore[misc]
            f"fsync:error=EIO:when={when}",
            tmp_path / "trace",
        )
        if not met:
            assert end == FINE
            break
        assert end == REFUSED
        assert not folders.of(name).exists()
        assert name not in folders.unfinished()
        when += 1
    assert when > 8


def test_a_run_killed_while_it_begins_is_whole_or_not_there(tmp_path: Path, folders: RunFolders) -> None:
    number = 0
    for call in ("mkdir", "openat", "write", "fsync", "rename"):
        when = 1
        while True:
            number += 1
            name = RunId(f"20261125-120000-{number:06x}")
            _, met = injected(
                lambda name=name: begin(folders, name, b"{}"),  # type: ignore[misc]
                f"{call}:signal=KILL:when={when}",
                tmp_path / "trace",
            )
            events = [line["event"] for line in read(folders, name)]
            assert events in ([], ["begun"])
            if events:
                assert (folders.of(name) / "plan.json").read_bytes() == b"{}"
                assert name in folders.unfinished(), "begun, and recover would never look at it"
            else:
                forget(folders, name)
                assert not folders.of(name).exists()
                assert name not in folders.unfinished()
            if not met:
                assert name in folders.unfinished()
                break
            when += 1
    assert number > 25


def test_what_others_left_among_the_markers_is_no_run(folders: RunFolders) -> None:
    begin(folders, RUN, b"{}").release()
    (folders.open / f".{RUN}.123").write_bytes(b"")
    (folders.open / ".nfs0001").write_bytes(b"")
    assert folders.unfinished() == [RUN]


HOLD = """
import sys, time
from pathlib import Path
from orchestrator.journal import RunFolders, begin
from orchestrator.reference import RunId
top = Path(sys.argv[1])
journal = begin(RunFolders(top / "runs", top / "open"), RunId(sys.argv[2]), b"{}")
journal.write("start")
print("begun", flush=True)
time.sleep(60)
"""


def test_a_run_is_taken_over_when_its_holder_is_killed_and_not_before(folders: RunFolders) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folders.runs.parent, RUN], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "begun\n"
    before = open_descriptors()
    assert is_held(folders, RUN)
    with pytest.raises(Busy):
        take_over(folders, RUN)
    assert open_descriptors() == before
    holder.send_signal(signal.SIGSTOP)  # stopped is not dead
    with pytest.raises(Busy):
        take_over(folders, RUN)
    holder.kill()
    holder.communicate()
    assert not is_held(folders, RUN)
    journal = take_over(folders, RUN)
    assert _events(folders) == ["begun", "start"]
    with pytest.raises(Busy):
        take_over(folders, RUN)
    journal.close()


def test_of_two_recoverers_one_holds_it(folders: RunFolders, tmp_path: Path) -> None:
    begin(folders, RUN, b"{}").release()

    def recover() -> None:
        try:
            journal = take_over(folders, RUN)
        except Busy:
            raise StoreError("busy") from None
        if "closed" not in _events(folders):
            journal.write("adopt")
            time.sleep(0.5)
            journal.close()

    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            os._exit(in_child(recover))
        children.append(child)
    ends = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert ends.count(FINE) >= 1
    assert set(ends) <= {FINE, REFUSED}
    assert _events(folders) == ["begun", "adopt", "closed"], "it was recovered twice"


def test_those_who_only_ask_disturb_nobody(folders: RunFolders) -> None:
    """`is_held` from many processes: none of them takes another for a holder, and taking over works meanwhile."""
    begin(folders, RUN, b"{}").release()

    def ask() -> None:
        for _ in range(3000):
            assert not is_held(folders, RUN)

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(in_child(ask))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [FINE] * 3


def test_asking_about_a_run_that_is_gone(folders: RunFolders) -> None:
    assert not is_held(folders, RUN)
    with pytest.raises(FileNotFoundError):
        take_over(folders, RUN)


def test_a_journal_leaves_no_descriptor(folders: RunFolders) -> None:
    before = open_descriptors()
    begin(folders, RUN, b"{}").close()
    take_over(folders, RUN).release()
    with pytest.raises(StoreError):
        begin(folders, RUN, b"{}")
    assert open_descriptors() == before


@pytest.mark.parametrize("call", ["openat", "write", "fsync", "rename"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, call: str) -> None:
    path = tmp_path / "plan.json"
    when = 1
    while True:
        path.write_bytes(b"old")
        end, met = injected(
            lambda: journals.write_durably(path, b"new"), f"{call}:error=EIO:when={when}", tmp_path / "trace"
        )
        left = sorted(entry.name for entry in tmp_path.iterdir() if entry.name != "trace")
        assert left == ["plan.json"]
        if not met:
            break
        assert end != FINE
        assert path.read_bytes() == b"old"
        when += 1
    assert path.read_bytes() == b"new"


def test_a_line_is_one_json_object_in_utf8(folders: RunFolders) -> None:
    journal: Journal = begin(folders, RUN, b"{}")
    journal.write("odd", text="line\nbreak \ud800 ä")
    journal.close()
    lines = (folders.of(RUN) / "journal").read_bytes().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["begun", "odd", "closed"]
