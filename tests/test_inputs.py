"""Inputs as a run gets them: verified, read-only, made once, and made anew when somebody touched them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts import tree
from orchestrator.artifacts.inputs import InputCache
from orchestrator.digest import hex_of, of_bytes
from orchestrator.errors import StoreError
from orchestrator.single_flight import single_flight
from orchestrator.store.folder import FolderStore
from tests.store_tools import FINE, Heard, blob, collect, in_child, mounted, needs_root, second_file_system


class Place:
    """A store with one tree in it, and the cache that lays it out."""

    def __init__(self, top: Path, store: Path) -> None:
        source = top / "source"
        (source / "inner" / "empty").mkdir(parents=True)
        (source / "data").write_bytes(b"data")
        (source / "void").write_bytes(b"")
        (source / "inner" / "run").write_bytes(b"#!/bin/sh\n")
        (source / "inner" / "run").chmod(0o755)
        (source / "inner" / "link").symlink_to("../data")
        self.root = store
        self.store = FolderStore.open_at(store)
        self.digest = self.store.put(tree.encode(collect(self.store, source)))
        self.folder = top / "trees"
        self.heard = Heard()
        self.cache = InputCache(self.store, self.folder, self.heard)

    def lay_out(self) -> Path:
        return self.cache.lay_out(self.digest)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, tmp_path / "store")


def _check(laid: Path) -> None:
    assert (laid / "data").read_bytes() == b"data"
    assert (laid / "void").read_bytes() == b""
    assert (laid / "inner" / "run").read_bytes() == b"#!/bin/sh\n"
    assert os.readlink(laid / "inner" / "link") == "../data"
    assert os.listdir(laid / "inner" / "empty") == []
    assert sorted(path.name for path in laid.rglob("*")) == [
        "data",
        "empty",
        "inner",
        "link",
        "run",
        "void",
    ]


def test_a_tree_is_laid_out_read_only_and_once(place: Place) -> None:
    laid = place.lay_out()
    _check(laid)
    assert {oct((laid / name).stat().st_mode & 0o777) for name in ("data", "void")} == {"0o444"}
    assert (laid / "inner" / "run").stat().st_mode & 0o777 == 0o555
    before = (laid / "inner" / "run").stat().st_ino
    assert place.lay_out() == laid
    assert (laid / "inner" / "run").stat().st_ino == before, "made a second time"
    assert place.heard.warnings == []


def test_blobs_are_linked_where_the_disk_can_and_copied_elsewhere(tmp_path: Path) -> None:
    with second_file_system(tmp_path) as other:
        for root, linked in ((tmp_path / "store", True), (other / "store", False)):
            place = Place(tmp_path / f"linked-{linked}", root)
            laid = place.lay_out()
            _check(laid)
            assert ((laid / "data").stat().st_nlink > 1) is linked


def _write(laid: Path) -> None:
    (laid / "inner" / "run").chmod(0o755)
    (laid / "inner" / "run").write_bytes(b"#!/bin/sj\n")


def _add(laid: Path) -> None:
    (laid / "inner" / "more").write_bytes(b"")


def _remove(laid: Path) -> None:
    (laid / "void").unlink()


def _add_empty_folder(laid: Path) -> None:
    (laid / "inner" / "empty" / "more").mkdir()


def _remove_empty_folder(laid: Path) -> None:
    (laid / "inner" / "empty").rmdir()


def _relink(laid: Path) -> None:
    (laid / "inner" / "link").unlink()
    (laid / "inner" / "link").symlink_to("../void")


def _mode(laid: Path) -> None:
    (laid / "inner" / "run").chmod(0o444)


def _lock_folder(laid: Path) -> None:
    (laid / "inner").chmod(0)


def _rename(laid: Path) -> None:
    (laid / "data").rename(laid / "datum")


def _replace_by_link(laid: Path) -> None:
    (laid / "data").unlink()
    (laid / "data").symlink_to("/etc/hostname")


def _link_to_folder(laid: Path) -> None:
    (laid / "inner" / "etc").symlink_to("/etc")


@pytest.mark.parametrize(
    "change",
    [
        _write,
        _add,
        _remove,
        _add_empty_folder,
        _remove_empty_folder,
        _relink,
        _mode,
        _lock_folder,
        _rename,
        _replace_by_link,
        _link_to_folder,
    ],
)
def test_what_was_changed_from_outside_is_made_anew(place: Place, change: Callable[[Path], None]) -> None:
    laid = place.lay_out()
    change(laid)
    assert place.lay_out() == laid
    _check(laid)
    assert "changed from outside" in place.heard.warnings[0]
    assert place.lay_out() == laid
    assert len(place.heard.warnings) == 1


@pytest.mark.parametrize("stamps", [None, b"", b"{", b"[" * 100_000, b"{}", b"null", b"\xff"])
def test_stamps_that_are_lost_or_damaged_are_made_anew(place: Place, stamps: bytes | None) -> None:
    laid = place.lay_out()
    path = laid.with_suffix(".json")
    path.unlink()
    if stamps is not None:
        path.write_bytes(stamps)
    _check(place.lay_out())


@pytest.mark.parametrize("entries", [[], [tree.TreeEntry("empty", "d")]])
def test_a_tree_removed_by_hand_is_made_anew(place: Place, entries: list[tree.TreeEntry]) -> None:
    digest = place.store.put(tree.encode(entries))
    laid = place.cache.lay_out(digest)
    subprocess.run(["rm", "-r", laid], check=True)
    assert place.cache.lay_out(digest).is_dir()
    assert place.heard.warnings == []


@pytest.mark.parametrize("how", ["damaged", "gone"])
@pytest.mark.parametrize("content", [b"data", b"#!/bin/sh\n"])
def test_a_damaged_blob_is_told_and_nothing_is_laid_out(place: Place, how: str, content: bytes) -> None:
    path = blob(place.root, of_bytes(content))
    path.chmod(0o644)
    if how == "damaged":
        path.write_bytes(content[:-1] + b"?")
    else:
        path.unlink()
    with pytest.raises(StoreError, match=of_bytes(content)):
        place.lay_out()
    left = [name for name in os.listdir(place.folder) if not name.endswith(".lock")]
    assert left == []


def test_damage_in_the_store_reaches_no_run_that_links_to_it(place: Place) -> None:
    """A laid-out file and its blob are one file: who damages the one, damages the other, and it is seen."""
    laid = place.lay_out()
    path = blob(place.root, of_bytes(b"data"))
    path.chmod(0o644)
    path.write_bytes(b"dat?")
    with pytest.raises(StoreError, match="damaged bytes"):
        place.lay_out()
    assert place.store.put(b"data") == of_bytes(b"data")
    _check(place.lay_out())
    assert laid.exists()


@pytest.mark.parametrize(
    "data",
    [b"{", b'{"p":"../x","t":"d"}\n', b'{"p":"a","t":"l","d":"/etc"}\n'],
)
def test_a_hostile_tree_is_told(place: Place, data: bytes) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        place.cache.lay_out(place.store.put(data))


def test_a_tree_that_lies_about_a_size_is_told(place: Place) -> None:
    lie = tree.TreeEntry("data", "f", False, 5, of_bytes(b"data"))
    with pytest.raises(StoreError, match="not as long"):
        place.cache.lay_out(place.store.put(tree.encode([lie])))


def test_a_missing_tree_is_told(place: Place) -> None:
    with pytest.raises(StoreError, match="is not in the store"):
        place.cache.lay_out(of_bytes(b"no such tree"))


def test_a_cache_that_cannot_be_written_is_told(place: Place) -> None:
    place.folder.write_bytes(b"a file where the folder should be")
    with pytest.raises(StoreError):
        place.lay_out()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    needs_root()
    place = Place(tmp_path, tmp_path / "store")
    large = tree.TreeEntry("large", "f", False, 2 << 20, place.store.put(os.urandom(2 << 20)))
    digest = place.store.put(tree.encode([large]))
    with mounted(tmp_path / "disk", "size=1m") as disk:
        with pytest.raises(StoreError, match="No space left"):
            InputCache(place.store, disk / "trees", place.heard).lay_out(digest)
        assert [name for name in os.listdir(disk / "trees") if not name.endswith(".lock")] == []


def test_processes_share_one_making(place: Place) -> None:
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            os._exit(in_child(place.lay_out))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [FINE] * 6
    _check(place.lay_out())
    assert place.heard.warnings == []
    assert [name for name in os.listdir(place.folder) if name.startswith(".")] == []


def test_what_a_killed_maker_left_goes_with_the_next(place: Place) -> None:
    place.folder.mkdir()
    name = hex_of(place.digest)
    left = place.folder / f".new-{name[:16]}-dead"
    (left / "inner").mkdir(parents=True)
    (left / "inner").chmod(0)
    other = place.folder / f".new-{'0' * 16}-alive"
    other.mkdir()
    place.lay_out()
    assert not left.exists()
    assert other.exists(), "another tree's maker may be alive"


# --- one at a time ------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.single_flight import single_flight
from tests.store_tools import Heard
with single_flight(Path(sys.argv[1]), "it", Heard()):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(lock: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_the_second_waits_is_told_and_goes_on_when_the_first_is_killed(tmp_path: Path) -> None:
    heard = Heard()
    holder = _holder(tmp_path / "lock")
    waiter = os.fork()
    if waiter == 0:
        with single_flight(tmp_path / "lock", "it", heard):
            (tmp_path / "entered").write_text(json.dumps(heard.notes))
        os._exit(0)
    time.sleep(0.2)
    assert not (tmp_path / "entered").exists()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert os.waitpid(waiter, 0)[1] == 0
    assert json.loads((tmp_path / "entered").read_text()) == ["another run is making it: waiting for it"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path: Path) -> None:
    """The cache was cleared while one held and one waited: a third must not enter beside the second."""
    lock = tmp_path / "lock"
    holder = _holder(lock)
    waiter = os.fork()
    if waiter == 0:
        with single_flight(lock, "it", Heard()):
            same = os.stat(lock).st_ino
            (tmp_path / "entered").write_text(str(same))
            time.sleep(0.3)
        os._exit(0)
    time.sleep(0.2)
    lock.unlink()
    holder.kill()
    holder.communicate()
    while not (tmp_path / "entered").exists():
        time.sleep(0.01)
    began = time.monotonic()
    with single_flight(lock, "it", Heard()):
        assert time.monotonic() - began > 0.1, "two were inside at once"
    os.waitpid(waiter, 0)


def test_a_lock_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="cannot lock"),
        single_flight(tmp_path / "no" / "lock", "it", Heard()),
    ):
        pass


def test_the_lock_falls_with_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), single_flight(tmp_path / "lock", "it", Heard()):
            raise ZeroDivisionError
