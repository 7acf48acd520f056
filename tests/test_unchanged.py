"""Adding again what has not changed: it is told by stat and not read; and files that the store takes as they lie."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import by_hand, copying_out, stat_index, tombstone
from orchestrator.artifacts.version import Version, publish, resolve
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.store import disk, intake
from orchestrator.store.folder import FolderStore
from orchestrator.upkeep import machine
from orchestrator.upkeep.collect import collect
from tests.gc_tools import is_whole
from tests.run_tools import Project
from tests.store_tools import Heard, blob, check_store, mounted, needs_root

LONG = 1 << 20
YOUNG = 0.05


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


@pytest.fixture(autouse=True)
def _young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are young for a moment only, so that the tests need not wait."""
    _young_for(monkeypatch, YOUNG)


def _young_for(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in (stat_index, intake):
        monkeypatch.setattr(module, "RACY", int(seconds * 1e9))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a large file, a small one and a link, quiet for long enough."""
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "large").write_bytes(os.urandom(LONG))
    (folder / "inner" / "small").write_text("small")
    (folder / "link").symlink_to("large")
    _rest()
    return folder


def _rest() -> None:
    time.sleep(YOUNG + 0.05)


def _add(store: FolderStore, path: Path, *, link: bool = False, name: str = "data") -> str:
    cache = Path(store.location).with_name("cache")
    made = by_hand.add(store, path, kind="dataset", name=name, version=None, link=link, cache=cache)
    assert is_whole(store, made)
    return made.ref.version


def _read_during(store: FolderStore, path: Path, name: str = "data") -> tuple[str, int]:
    """The version that a folder became, and how many bytes this process read for it."""
    cache, before = Path(store.location).with_name("cache"), _bytes_read()
    made = by_hand.add(store, path, kind="dataset", name=name, version=None, cache=cache)
    return made.ref.version, _bytes_read() - before


def _bytes_read() -> int:
    found = re.search(r"rchar: ([0-9]+)", Path("/proc/self/io").read_text())
    assert found is not None
    return int(found[1])


def test_what_is_unchanged_is_not_read_again(store: FolderStore, data: Path) -> None:
    version, read = _read_during(store, data)
    assert (version, read >= LONG) == ("v1", True)
    version, read = _read_during(store, data)
    assert (version, read < LONG // 4) == ("v1", True), "not a file was read"
    (data / "inner" / "new").write_text("new")
    version, read = _read_during(store, data)
    assert (version, read < LONG // 4) == ("v2", True), "but the new file, and that only"
    assert _read_during(store, data, "other")[1] < LONG // 4, "another name needs no bytes either"
    assert resolve(store, "dataset:other:v1").manifest.tree == resolve(store, "dataset:data:v2").manifest.tree
    version, read = _read_during(store, data / "large", "one")
    assert (version, read >= LONG) == ("v1", True)
    version, read = _read_during(store, data / "large", "one")
    assert (version, read < LONG // 4) == ("v1", True), "nor is a single file"


def test_every_change_is_seen(store: FolderStore, data: Path) -> None:
    assert _add(store, data) == "v1"
    small, status = data / "inner" / "small", (data / "inner" / "small").stat()
    small.write_text("SMALL")
    os.utime(small, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _add(store, data) == "v2", "the same size and time of change: the inode's own time tells"
    small.chmod(0o755)
    assert _add(store, data) == "v3"
    (data / "link").unlink()
    (data / "link").symlink_to("inner/small")
    assert _add(store, data) == "v4"
    (data / "empty").mkdir()
    assert _add(store, data) == "v5"
    small.rename(data / "inner" / "renamed")
    (data / "link").unlink()
    assert _add(store, data) == "v6"
    (data / "large").unlink()
    assert _add(store, data) == "v7"


def test_what_changed_just_now_is_read_again(
    store: FolderStore, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes may carry one time stamp: what was young when it was looked at is never taken as known."""
    assert disk.RACY == 2e9
    _young_for(monkeypatch, 3600)
    assert _add(store, data) == "v1"
    assert _read_during(store, data)[1] >= LONG
    assert _read_during(store, data / "large", "one")[1] >= LONG
    _young_for(monkeypatch, YOUNG)
    assert _read_during(store, data)[1] >= LONG, "it was young when it was hashed"
    assert _read_during(store, data)[1] < LONG // 4


def test_another_store_gets_its_bytes(store: FolderStore, data: Path, tmp_path: Path) -> None:
    _add(store, data)
    other = FolderStore.open_at(tmp_path / "other")
    assert _add(other, data) == "v1"
    assert check_store(tmp_path / "other") == 4


def test_a_version_that_was_given_up_is_made_anew(store: FolderStore, data: Path) -> None:
    _add(store, data)
    found = resolve(store, "dataset:data:v1")
    tombstone.bury(store, found.ref, found.digest, "a trial")
    assert _add(store, data) == "v2"
    tombstone.bury(store, resolve(store, "dataset:data:v2").ref, found.digest, "another trial")
    assert collect(store, 0.0, Heard()).removed == 4
    assert _add(store, data) == "v3"


def test_publishing_again_mends_what_was_found_damaged(
    store: FolderStore, data: Path, tmp_path: Path
) -> None:
    """Nobody looks at the blobs of what is unchanged, unless somebody came upon one that is not well."""
    _add(store, data)
    path = blob(Path(store.location), of_bytes(b"small"))
    path.unlink()
    with pytest.raises(StoreError):
        copying_out.copy_out(store, resolve(store, "dataset:data:v1"), tmp_path / "out")
    assert _add(store, data) == "v1"
    assert path.exists()
    stamp = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"SMALL")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    target = tmp_path / "target"
    with pytest.raises(StoreError, match="damaged"):
        store.materialise(of_bytes(b"small"), target, executable=False)
    assert _add(store, data) == "v1"
    store.materialise(of_bytes(b"small"), target, executable=False)


def test_a_cache_that_is_spoilt_costs_time_only(store: FolderStore, data: Path) -> None:
    _add(store, data)
    for path in (Path(store.location).with_name("cache") / "stat").iterdir():
        path.write_text('{"schema": 1, "files": {"large": [')
    assert _read_during(store, data)[0] == "v1"
    for path in (Path(store.location).with_name("cache") / "stat").iterdir():
        path.write_text("[]")
    assert _read_during(store, data)[0] == "v1"


def test_what_is_remembered_is_forgotten_after_months(store: FolderStore, data: Path) -> None:
    _add(store, data)
    cache = Path(store.location).with_name("cache")
    old, new = sorted((cache / "stat").iterdir())
    os.utime(old, (1e9, 1e9))
    assert machine.forget_added(cache) == 1
    assert list((cache / "stat").iterdir()) == [new]
    assert machine.forget_added(cache.with_name("none")) == 0


def test_adding_again_costs_a_walk(store: FolderStore, tmp_path: Path) -> None:
    """Measured for 10,000 files: 35 ms, as long as os.walk with a stat of each (bench/store_add.py)."""
    folder = tmp_path / "many"
    for number in range(3000):
        path = folder / f"{number // 100}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    _rest()
    _read_during(store, folder)

    def walk() -> None:
        for top, _, names in os.walk(folder):
            for name in names:
                os.stat(os.path.join(top, name))

    took = {}
    for action in (walk, lambda: _read_during(store, folder)):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
        took[action.__name__] = min(times)
    print(took)
    assert took["<lambda>"] < 3 * took["walk"]


def test_with_link_the_file_itself_becomes_the_blob(store: FolderStore, data: Path) -> None:
    script = data / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    _rest()
    assert _add(store, data, link=True) == "v1"
    large = data / "large"
    kept = blob(Path(store.location), of_bytes(large.read_bytes()))
    assert os.path.samefile(large, kept)
    assert stat.S_IMODE(large.stat().st_mode) == 0o444
    assert stat.S_IMODE(script.stat().st_mode) == 0o755, "an executable one is copied, and stays as it is"
    assert check_store(Path(store.location)) == 5
    assert _add(store, data, link=True) == "v1"
    large.chmod(0o644)
    with large.open("r+b") as sink:
        sink.write(b"x")
    assert not store.has(Digest(f"sha256:{kept.name}")), "a write to it is seen"


def test_with_link_what_is_unchanged_is_not_read_again(store: FolderStore, data: Path) -> None:
    (data / "script").write_text("#!/bin/sh\n")
    (data / "script").chmod(0o755)
    _rest()
    assert _add(store, data, link=True) == "v1"
    version, count = _read_during(store, data)
    assert version == "v1" and count < LONG // 8, "its files' stamps are others now, which is known"
    (data / "inner" / "more").write_text("more")
    _rest()
    version, count = _read_during(store, data)
    assert version == "v2" and count < LONG // 8
    # written to by force, and given the very time stamp of a blob again: that of the change itself tells
    large = data / "large"
    large.chmod(0o644)
    with large.open("r+b") as sink:
        sink.write(b"x")
    os.utime(large, (1, 1))
    large.chmod(0o444)
    _rest()
    assert _add(store, data) == "v3"


def test_with_link_one_file_is_not_read_again(store: FolderStore, data: Path) -> None:
    assert _add(store, data / "large", link=True, name="one") == "v1"
    version, count = _read_during(store, data / "large", name="one")
    assert version == "v1" and count < LONG // 8


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("change", ["replaced", "made executable"])
def test_a_file_that_only_looks_like_a_blob_is_not_taken_for_one(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool, change: str
) -> None:
    """Another store's, say: read-only, with the time stamp that blobs have. It changes while it is added."""
    data, beside = tmp_path / "data", tmp_path / "beside"
    data.mkdir()
    for path, content in ((data / "file", b"A" * 100), (beside, b"B" * 100)):
        path.write_bytes(content)
        path.chmod(0o444)
        os.utime(path, (1, 1))
    if link:
        (tmp_path / "more").write_bytes(b"A" * 100)
        os.utime(tmp_path / "more", (2, 2))
        (tmp_path / "more").rename(data / "a")  # the blob is this one
    _rest()

    def meanwhile(*args: Any) -> Version:
        if change == "replaced":
            subprocess.run(["cp", "-af", str(beside), str(data / "file")], check=True)
        else:
            (data / "file").chmod(0o555)
        return publish(*args)

    with monkeypatch.context() as patch:
        patch.setattr(by_hand, "publish", meanwhile)
        assert _add(store, data, link=link) == "v1"
    _rest()
    assert _add(store, data, link=link) == "v2"
    copying_out.copy_out(store, resolve(store, "dataset:data:v2"), tmp_path / "out")
    assert (tmp_path / "out" / "file").read_bytes() == (data / "file").read_bytes()


def test_with_link_files_that_change_names_meanwhile_are_told_apart(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of one size, after they were hashed and sealed: each is a blob, but not that of its name."""
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        (data / name).write_bytes(name.encode() * 100)
    _rest()

    def swapped(*args: Any) -> Version:
        (data / "a").rename(data / "c")
        (data / "b").rename(data / "a")
        (data / "c").rename(data / "b")
        return publish(*args)

    with monkeypatch.context() as patch:
        patch.setattr(by_hand, "publish", swapped)
        assert _add(store, data, link=True) == "v1"
    _rest()
    assert _add(store, data, link=True) == "v2"
    copying_out.copy_out(store, resolve(store, "dataset:data:v2"), tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"b" * 100


def test_with_link_what_changed_just_now_is_copied(
    store: FolderStore, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(data / "inner" / "small", (1e9, 1e9))
    _young_for(monkeypatch, 3600)
    _add(store, data, link=True)
    assert os.stat(data / "large").st_nlink == 1
    assert os.stat(data / "inner" / "small").st_nlink == 2


def test_with_link_a_file_that_is_written_to_meanwhile_is_refused(store: FolderStore, data: Path) -> None:
    with (data / "large").open("rb") as source, pytest.raises(ArtifactError, match="changed"):  # noqa: SIM117
        with store.intake(link=True) as intake:
            intake.add(source.fileno(), LONG)
            (data / "large").write_bytes(os.urandom(LONG))
    assert list((Path(store.location) / "staging").iterdir()) == []
    assert os.stat(data / "large").st_nlink == 1


def test_with_link_many_files_are_taken_together(
    store: FolderStore, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "TOGETHER", 2)
    for number in range(9):
        (data / f"{number}").write_text(f"file {number}".ljust(5000))
    for number in range(3):  # opened before the first is sealed, and taken after it
        os.link(data / f"{number}", data / f"x{number}")
    _rest()
    assert _add(store, data, link=True) == "v1"
    assert [os.stat(data / f"{number}").st_nlink for number in range(9)] == [3] * 3 + [2] * 6
    version, count = _read_during(store, data)
    assert version == "v1" and count < LONG // 8


def test_with_link_another_file_system_gets_copies(store: FolderStore, tmp_path: Path) -> None:
    needs_root()
    with mounted(tmp_path / "elsewhere") as place:
        (place / "file").write_text("content")
        _rest()
        assert _add(store, place / "file", link=True) == "v1"
        assert os.stat(place / "file").st_nlink == 1


def test_by_the_command_line(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", "")
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(LONG))
    os.utime(path, (1e9, 1e9))
    made = project.asked("artifact", "add", str(path), "--as", "dataset:data", "--link")
    assert made["id"] == "dataset:data:v1"
    assert os.path.samefile(path, blob(project.store, of_bytes(path.read_bytes())))
    assert project.asked("artifact", "add", str(path), "--as", "dataset:data")["id"] == "dataset:data:v1"
