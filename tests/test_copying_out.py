"""Many files copied out by two processes: the same as by one, whatever becomes of the second."""

from __future__ import annotations

import filecmp
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import by_hand, copying_out
from orchestrator.artifacts.version import Version
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.store import helping
from orchestrator.store.folder import FolderStore
from orchestrator.store.following import LARGE
from tests.helper_tools import Started, kill_after
from tests.run_tools import wait_for
from tests.store_tools import mounted, needs_root, open_descriptors

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


@pytest.fixture
def started(started: Started, monkeypatch: pytest.MonkeyPatch) -> Started:
    """The helper gets all that follow."""
    monkeypatch.setattr(helping, "AHEAD", 10**9)
    return started


def test_two_processes_make_the_same_copy(
    store: FolderStore, source: Path, made: Version, tmp_path: Path, started: Started
) -> None:
    before = open_descriptors()
    copying_out.copy_out(store, made, tmp_path / "out")
    _same(source, tmp_path / "out")
    assert [each.poll() for each in started] == [0]
    assert open_descriptors() == before


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_helper_that_is_killed_costs_time_only(
    store: FolderStore,
    source: Path,
    made: Version,
    tmp_path: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    """SIGKILL after so many answers, while it has more to do."""
    kill_after(monkeypatch, helping.Copier, started, after)
    copying_out.copy_out(store, made, tmp_path / "out")
    _same(source, tmp_path / "out")
    assert started[0].poll() == -9


def test_a_helper_that_cannot_be_started_is_done_without(
    store: FolderStore, source: Path, made: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helping, "ALONE", 32)
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    copying_out.copy_out(store, made, tmp_path / "out")
    _same(source, tmp_path / "out")


@pytest.mark.parametrize("where", ["0/in/000", "3/in/150", "6/in/293", "large"])
def test_damaged_bytes_are_told_and_nothing_is_left(
    store: FolderStore, source: Path, made: Version, tmp_path: Path, started: Started, where: str
) -> None:
    """Whoever of the two comes to them."""
    for blob in (tmp_path / "store" / "blobs").rglob("*"):
        if blob.is_file() and blob.read_bytes() == (source / where).read_bytes():
            blob.chmod(0o644)
            blob.write_bytes(b"X" + blob.read_bytes()[1:])
    before = open_descriptors()
    with pytest.raises(StoreError, match=f"holds damaged bytes for .*{where}"):
        copying_out.copy_out(store, made, tmp_path / "out")
    assert all(each.poll() == 0 for each in started)  # none was started before the first of all
    assert sorted(os.listdir(tmp_path)) == ["source", "store"]
    assert open_descriptors() == before


def test_a_full_disk_is_told_and_nothing_is_left(
    store: FolderStore, made: Version, tmp_path: Path, started: Started
) -> None:
    needs_root()
    with mounted(tmp_path / "disk", "size=3m") as folder:
        with pytest.raises(ArtifactError, match="No space left"):
            copying_out.copy_out(store, made, folder / "out")
        assert os.listdir(folder) == []
    assert [each.poll() for each in started] == [0]


@pytest.mark.parametrize("many", [False, True])
def test_two_names_that_are_one_where_it_goes_are_told(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """As on a share that does not tell upper and lower case apart, which no file system here does by itself."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("A", "a", *(f"n{number}" for number in range(100 if many else 1))):
        (source / name).write_text(name)
    made = by_hand.add(store, source, kind="dataset", name="d", version=None)
    monkeypatch.setattr(helping, "ALONE", 32)
    real = os.open

    def folded(path: Any, flags: int, *more: Any, **named: Any) -> int:
        return real(str(path).lower() if flags & os.O_EXCL else path, flags, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", folded)
        with pytest.raises(ArtifactError, match="two names of the artifact are one"):
            copying_out.copy_out(store, made, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["source", "store"]


def test_a_helper_ends_with_its_starter(store: FolderStore, made: Version, tmp_path: Path) -> None:
    """SIGKILL of the starter alone, while its helper waits for more to do."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom orchestrator.artifacts import copying_out\n"
        "from orchestrator.artifacts.version import resolve\nfrom orchestrator.store import helping\n"
        "from orchestrator.store.folder import FolderStore\n"
        "helping.ALONE = 32\nanswered = helping.Copier.answered\n"
        "def slow(self):\n    print(self._process.pid, flush=True); time.sleep(60)\n"
        "helping.Copier.answered = slow\n"
        "store = FolderStore(Path(sys.argv[1]))\n"
        "copying_out.copy_out(store, resolve(store, 'dataset:d:v1'), Path(sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        helper = int(starter.stdout.readline())
        assert Path(f"/proc/{helper}").exists()
        starter.kill()
    wait_for(lambda: not Path(f"/proc/{helper}").exists() or "\nState:\tZ" in _status(helper))


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ"
