"""A publish that is killed, or whose disk fails or is full: nothing torn, nothing half visible, and the retry works."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.artifacts.version import every, versions
from orchestrator.errors import StoreError
from orchestrator.store import disk
from orchestrator.store.folder import FolderStore
from tests.figures import Counted
from tests.store_sweep import CHANGES, KILLED, REFUSED_BY_DISK, Sweep
from tests.store_tools import REFUSED, check_store, injected, mounted, needs_root, save, staged, whole


def test_a_publish_killed_at_any_change_of_the_disk_leaves_nothing_torn(
    tmp_path: Path, counted: Counted
) -> None:
    swept = Sweep(tmp_path, counted(KILLED)).over(CHANGES, "signal=KILL")
    assert swept.killed == swept.faults > 60


def test_a_publish_of_many_files_killed_around_its_one_sync(tmp_path: Path, counted: Counted) -> None:
    sweep = Sweep(tmp_path, counted(KILLED), files=20)
    swept = sweep.over(("syncfs",), "signal=KILL")
    assert swept.killed == 1, "one sync for all of them"


@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EIO"])
def test_a_publish_on_a_failing_disk_is_refused_and_can_be_made_again(
    tmp_path: Path, counted: Counted, fault: str
) -> None:
    swept = Sweep(tmp_path, counted(REFUSED_BY_DISK)).over(("write", "fsync", "rename", "link"), fault)
    assert swept.refused == swept.faults > 20, "a fault was passed over in silence"


def test_a_failed_sync_of_many_files_is_refused(tmp_path: Path, counted: Counted) -> None:
    swept = Sweep(tmp_path, counted(REFUSED_BY_DISK), files=20).over(("syncfs",), "error=EIO")
    assert swept.refused == swept.faults == 1


def test_a_publish_killed_in_a_sync_beside_it_leaves_nothing_torn(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_EARLY", 1)
    swept = Sweep(tmp_path, counted(KILLED), files=20).over(("syncfs",), "signal=KILL")
    assert swept.killed == swept.faults >= 1


@pytest.mark.parametrize("failing", [1, 2])
def test_a_sync_beside_it_that_failed_is_told_once_by_the_kernel_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The sync in the end hears nothing of it (errseq_t, Documentation/core-api/errseq.rst)."""
    real, count = disk._sync_file_system, 0

    def sync(descriptor: int) -> bool:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor)

    monkeypatch.setattr(disk, "_EARLY", 1)
    monkeypatch.setattr(disk, "_sync_file_system", sync)
    store, source = FolderStore.open_at(tmp_path / "store"), tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / str(number)).write_bytes(os.urandom(1 << 20))
    with pytest.raises(StoreError, match="Input/output error"):
        save(store, source)
    assert count >= failing
    assert staged(tmp_path / "store") == []
    assert every(store) == []
    monkeypatch.undo()
    whole(store, str(save(store, source).ref))


@pytest.mark.parametrize("files", [2, 40])
def test_everything_is_durable_before_it_is_named_and_named_before_it_is_pointed_to(
    tmp_path: Path, files: int
) -> None:
    """The order of system calls of a publish: what no kill can show, since a kill loses no page."""
    root, source, trace = tmp_path / "store", tmp_path / "source", tmp_path / "trace"
    store = FolderStore.open_at(root)
    source.mkdir()
    for number in range(files):
        (source / str(number)).write_bytes(os.urandom(10))
    # no fault is meant: the call that would meet it is not made
    calls = "fsync,syncfs,rename,link"
    injected(lambda: save(store, source), "chroot:error=EIO:when=1", trace, also=calls)
    seen = [line.partition(" ")[2].strip() for line in trace.read_text().splitlines()]
    synced: set[str] = set()
    unsynced_names: set[str] = set()
    named = 0
    for line in seen:
        paths = re.findall(r'[<"](/[^">]*)[>"]', line)
        if line.startswith("fsync"):
            synced.add(paths[0])
            unsynced_names.discard(paths[0])
        elif line.startswith("syncfs"):
            synced.update(str(path) for path in (root / "staging").parent.rglob("*"))
            synced.add("all")
        elif line.startswith("rename"):
            assert paths[0] in synced or "all" in synced, f"named before it was durable: {line}"
            unsynced_names.add(os.path.dirname(paths[1]))
            named += 1
        elif line.startswith("link"):
            assert paths[0] in synced, f"pointer named before it was durable: {line}"
            assert unsynced_names == set(), "a pointer to blobs whose names may be lost"
            unsynced_names.add(os.path.dirname(paths[1]))
    assert named == files + 2, "the files, the tree and the manifest"
    assert unsynced_names == set(), "acknowledged before the pointer's name was durable"
    assert ("all" in synced) is (files > 16)


@pytest.mark.parametrize("fault", ["error=EPERM", "error=EOPNOTSUPP"])
def test_a_file_system_without_links_is_refused_at_the_door(tmp_path: Path, fault: str) -> None:
    end, met = injected(
        lambda: FolderStore.open_at(tmp_path / "store"), f"link:{fault}:when=2+", tmp_path / "trace"
    )
    assert (end, met) == (REFUSED, True)
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_full_disk(tmp_path: Path) -> None:
    needs_root()
    source = tmp_path / "source"
    source.mkdir()
    with mounted(tmp_path / "disk", "size=1m") as disk:
        store = FolderStore.open_at(disk / "store")
        (source / "file").write_bytes(os.urandom(200 << 10))
        fits = save(store, source, "fits")
        kept = 1
        for number in range(4):
            (source / "file").write_bytes(os.urandom(700 << 10))
            try:
                save(store, source, f"large{number}")
                kept += 1
            except StoreError as error:
                assert "No space left" in error.message
                assert error.hint is not None and "free some space" in error.hint
        assert kept == 2
        assert staged(disk / "store") == []
        assert len(every(store)) == 2
        assert whole(store, str(fits.ref)) == fits
        with pytest.raises(StoreError), store.writer() as writer:
            while True:
                writer.write(os.urandom(64 << 10))
        assert staged(disk / "store") == []
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert str(save(store, source, "large3").ref) == "dataset:large3:v1"
        assert versions(store, "dataset", "large3") == ["v1"]
        check_store(disk / "store")
