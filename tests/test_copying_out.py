"""Many files copied out by two processes: the same as by one, whatever becomes of the second."""

from __future__ import annotations

import filecmp
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts import by_hand, copying_out
from orchestrator.artifacts.version import Version
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.store.folder import FolderStore
from orchestrator.store.following import LARGE
from tests.store_tools import mounted, needs_root

_FILES = 300


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files in folders, a large one among them, one executable, one empty, a link, and an empty folder."""
    top = tmp_path / "source"
    for number in range(_FILES):
        path = top / f"{number % 7}" / "in" / f"{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 5000)
    (top / "0" / "in" / "000").chmod(0o755)
    (top / "0" / "empty").touch()
    (top / "large").write_bytes(os.urandom(LARGE + 1))
    (top / "link").symlink_to("0/in/007")
    (top / "nothing").mkdir()
    return top


@pytest.fixture
def made(store: FolderStore, source: Path) -> Version:
    return by_hand.add(store, source, kind="dataset", name="d", version=None)


def _same(source: Path, target: Path) -> None:
    paths = sorted(str(path.relative_to(source)) for path in source.rglob("*"))
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == paths
    files = [path for path in paths if (source / path).is_file()]
    assert filecmp.cmpfiles(source, target, files, shallow=False)[0] == files
    modes = {path: stat.S_IMODE((target / path).lstat().st_mode) for path in files if path != "link"}
    assert modes == {path: 0o755 if path == "0/in/000" else 0o644 for path in modes}
    assert os.readlink(target / "link") == "0/in/007"


def _with_helper(monkeypatch: pytest.MonkeyPatch, then: Callable[[int], object]) -> list[int]:
    """What the starter does as soon as it has a helper; gives their process ids."""
    started: list[int] = []
    fork = os.fork

    def watched() -> int:
        pid = fork()
        if pid:
            started.append(pid)
            then(pid)
        return pid

    monkeypatch.setattr(os, "fork", watched)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # other tests may have left some
    return started


def _ended(pid: int) -> bool:
    """Whether a child has been waited for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def _wait(pid: int) -> None:
    """Until a child has ended, which stays to be waited for."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("then", [lambda pid: None, _wait], ids=["both", "the helper all of it"])
def test_two_processes_make_the_same_copy(
    store: FolderStore,
    source: Path,
    made: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[int], object],
) -> None:
    started = _with_helper(monkeypatch, then)
    copying_out.copy_out(store, made, tmp_path / "out")
    _same(source, tmp_path / "out")
    assert [_ended(pid) for pid in started] == [True]


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02])
def test_a_helper_that_is_killed_costs_time_only(
    store: FolderStore,
    source: Path,
    made: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    def kill(pid: int) -> None:
        signal.sigtimedwait([], seconds)
        os.kill(pid, signal.SIGKILL)

    started = _with_helper(monkeypatch, kill)
    copying_out.copy_out(store, made, tmp_path / "out")
    _same(source, tmp_path / "out")
    assert [_ended(pid) for pid in started] == [True]


@pytest.mark.parametrize("where", ["0/in/000", "3/in/150", "6/in/293"])
@pytest.mark.parametrize("then", [lambda pid: None, _wait], ids=["both", "the helper first"])
def test_damaged_bytes_are_told_and_nothing_is_left(
    store: FolderStore,
    source: Path,
    made: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    then: Callable[[int], object],
) -> None:
    """Whoever of the two comes to them."""
    for blob in (tmp_path / "store" / "blobs").rglob("*"):
        if blob.is_file() and blob.read_bytes() == (source / where).read_bytes():
            blob.chmod(0o644)
            blob.write_bytes(b"X" + blob.read_bytes()[1:])
    started = _with_helper(monkeypatch, then)
    with pytest.raises(StoreError, match=f"holds damaged bytes for .*{where}"):
        copying_out.copy_out(store, made, tmp_path / "out")
    assert [_ended(pid) for pid in started] == [True]
    assert sorted(os.listdir(tmp_path)) == ["source", "store"]


def test_a_full_disk_is_told_and_nothing_is_left(
    store: FolderStore, made: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_root()
    started = _with_helper(monkeypatch, lambda pid: None)
    with mounted(tmp_path / "disk", "size=3m") as folder:
        with pytest.raises(ArtifactError, match="No space left"):
            copying_out.copy_out(store, made, folder / "out")
        assert os.listdir(folder) == []
    assert [_ended(pid) for pid in started] == [True]
