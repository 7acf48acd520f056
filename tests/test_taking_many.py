"""Many files taken with a second process: the same trees as without it, whatever becomes of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import taking, tree
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.store import helping
from orchestrator.store.folder import FolderStore
from tests.helper_tools import Started, answers, kill_after
from tests.store_tools import check_store, collect, mounted, needs_root, staged


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """300 files of all sizes that are told apart, some twice, one executable."""
    folder = tmp_path / "payload"
    for number in range(300):
        path = folder / f"{number % 7}" / f"{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (0, 100, 5000, 100 << 10, 300 << 10)[number % 5]
        path.write_bytes(f"{number % 250}".encode().ljust(size, b"."))
    (folder / "large").write_bytes(b"large" * (1 << 20))
    (folder / "middle").write_bytes(b"middle" * (1 << 19))
    (folder / "0" / "000").chmod(0o755)
    (folder / "0" / "014").chmod(0o755)
    return folder


def _alone(top: Path, tmp_path: Path) -> tuple[tree.TreeEntry, ...]:
    """The same tree, taken by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helping, "ALONE", 10**9)
        return collect(FolderStore.open_at(tmp_path / "other"), top)


def test_a_helper_reads_and_the_tree_is_the_same(
    store: FolderStore, top: Path, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = answers(monkeypatch, helping.Taker)
    monkeypatch.setattr(helping, "AHEAD", 10**9)  # it gets all of them
    assert collect(store, top) == _alone(top, tmp_path)
    assert sum(given) > 100
    assert [each.poll() for each in started] == [0]
    check_store(tmp_path / "store")
    assert staged(tmp_path / "store") == []


def test_what_is_there_is_not_staged_again(
    store: FolderStore, top: Path, tmp_path: Path, started: Started
) -> None:
    first = collect(store, top)
    before = {path: path.stat().st_ino for path in (tmp_path / "store" / "blobs").rglob("*")}
    assert collect(store, top) == first
    assert {path: path.stat().st_ino for path in (tmp_path / "store" / "blobs").rglob("*")} == before
    assert len(started) == 2
    assert staged(tmp_path / "store") == []


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_helper_that_dies_is_done_without(
    store: FolderStore,
    top: Path,
    tmp_path: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    """SIGKILL after so many answers, while it has more to do."""
    monkeypatch.setattr(helping, "AHEAD", 10**9)
    kill_after(monkeypatch, helping.Taker, started, after)
    assert collect(store, top) == _alone(top, tmp_path)
    assert started[0].poll() == -9
    check_store(tmp_path / "store")


def test_a_helper_that_cannot_be_started_is_done_without(
    store: FolderStore, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helping, "ALONE", 32)
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    assert collect(store, top) == _alone(top, tmp_path)


def test_a_file_that_grows_meanwhile_is_refused_and_leaves_nothing(
    store: FolderStore, top: Path, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the helper read it, and before it is taken; others are on their way then."""
    monkeypatch.setattr(helping, "AHEAD", 10**9)
    answer = helping.Taker.answer

    def grow(self: helping.Taker) -> Any:
        found = answer(self)
        with (top / "6" / "083").open("ab") as sink:
            sink.write(b"more")
        return found

    monkeypatch.setattr(helping.Taker, "answer", grow)
    with pytest.raises(ArtifactError, match="'6/083' changed while it was taken"):
        collect(store, top)
    assert [each.poll() for each in started] == [0]
    assert staged(tmp_path / "store") == []


def test_a_full_disk_is_told_and_leaves_nothing(
    top: Path, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper is refused first; that it tried is not to be seen."""
    monkeypatch.setattr(helping, "AHEAD", 10**9)
    needs_root()
    with mounted(tmp_path / "disk", "size=12m") as folder:
        store = FolderStore.open_at(folder / "store")
        with pytest.raises(StoreError, match="No space left"):
            collect(store, top)
        assert [each.poll() for each in started] == [0]
        assert staged(folder / "store") == []


def test_with_link_the_files_themselves_become_the_blobs(
    store: FolderStore, top: Path, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helping, "AHEAD", 10**9)
    wanted = _alone(top, tmp_path)
    time.sleep(2.1)  # what has just changed is copied
    descriptor = os.open(top, os.O_RDONLY)
    try:
        entries = taking.collect(store, descriptor, link=True)
    finally:
        os.close(descriptor)
    assert entries == wanted
    one = next(entry for entry in entries if entry.path == "1/288")
    assert one.digest is not None
    assert os.path.samefile(store.blob_path(one.digest), top / one.path)
    assert (top / one.path).stat().st_mode & 0o777 == 0o444
    check_store(tmp_path / "store")
    assert staged(tmp_path / "store") == []
