"""The suite of all stores on XFS, Btrfs and a network mount, with all its files there; and mounts that no store can rest on."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from orchestrator.artifacts import by_hand, copying_out
from orchestrator.checks import stores
from orchestrator.errors import StoreError
from orchestrator.store import disk as store_disk
from orchestrator.store import promises
from orchestrator.store.folder import FolderStore
from orchestrator.store.following import LARGE
from orchestrator.store.promises import FolderPromises
from orchestrator.store.staging import staged_name
from tests.figures import Counted
from tests.race_tools import RACES, races
from tests.s3_tools import Server, network_mount, rclone_mount
from tests.store_tools import Backend, disk, folder_backend, staged

suite = import_module("tests.test_store_conformance")
globals().update({name: each for name, each in vars(suite).items() if name.startswith("test_")})
store = suite.store  # the same suite, on the backend below


@pytest.fixture(scope="module", params=["xfs", "btrfs", "network"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A file system of that kind, and where it is mounted. The network's is used by this machine alone."""
    folder = tmp_path_factory.mktemp("disk")
    if request.param == "network":
        server = request.getfixturevalue("seaweedfs")
        with network_mount(server, folder, f"nas-{secrets.token_hex(4)}") as where:
            yield "fuse.seaweedfs", where
    else:
        with disk(request.param, folder) as where:
            yield request.param, where


@pytest.fixture
def tmp_path(place: tuple[str, Path]) -> Path:
    """Everything that a test writes lies there."""
    path = place[1] / secrets.token_hex(6)
    path.mkdir()
    return path


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with folder_backend("folder", tmp_path) as backend:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(promises, "_UNFIT", {})  # no other machine is at it
            backend.open()
        yield backend


def test_the_probe_tells_what_it_promises(place: tuple[str, Path], backend: Backend) -> None:
    kind, _ = place
    store = FolderStore.open_at(backend.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promises, "_UNFIT", {})  # else a kind that is known is not tried
        found = promises.examine(lambda: staged_name(store))
    assert found == FolderPromises(True, True, True, reflink=kind in ("xfs", "btrfs"), kind=kind)
    assert staged(backend.root) == []
    if found.problem is None:
        (told,) = stores.examine(store)
        assert f"on {kind}: creates once by link(2), also raced" in told.text


def test_large_files_are_shared_with_the_store_where_the_file_system_can(
    place: tuple[str, Path], backend: Backend, tmp_path: Path
) -> None:
    size = 4 * LARGE
    (tmp_path / "file").write_bytes(os.urandom(size))
    store = FolderStore.open_at(backend.root)
    before = _used(tmp_path)
    made = by_hand.add(store, tmp_path / "file", kind="dataset", name="large", version=None)
    copying_out.copy_out(store, made, tmp_path / "out")
    if place[0] in ("xfs", "btrfs"):
        assert _used(tmp_path) - before < size // 4
    with (tmp_path / "out").open("r+b") as sink:
        sink.write(b"mine")
    assert (tmp_path / "file").read_bytes()[4:] == (tmp_path / "out").read_bytes()[4:]
    copying_out.copy_out(store, made, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes(), "each is a copy of its own"


def _used(folder: Path) -> int:
    """Bytes that are used on its file system."""
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_many_race_for_names(backend: Backend, counted: Counted) -> None:
    races(backend.root, counted(RACES), publishers=6, rounds=6, readers=2)


def test_many_files_are_synced_one_by_one_where_the_kernel_does_not_sync_all(
    place: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """syncfs(2) says it has, and tells nothing to a file system in user space (fs/fuse/inode.c, fuse_sync_fs)."""
    synced: list[str] = []
    monkeypatch.setattr(store_disk, "sync", synced.append)
    paths = [str(tmp_path / f"{number}") for number in range(40)]
    for path in paths:
        Path(path).touch()
    store_disk.sync_many(paths, tmp_path)
    assert synced == (paths if place[0].startswith("fuse") else [])


def _both_win(first: Path, second: Path, name: str) -> bool:
    """Whether two who link their own files to one name at the same moment, by two mounts, are both told that they did."""
    gate, won = threading.Barrier(2), []

    def claim(mount: Path, own: str) -> None:
        (mount / f"{own}-{name}").write_text(own)
        gate.wait()
        with suppress(OSError):
            os.link(mount / f"{own}-{name}", mount / name)
            won.append(own)

    threads = [threading.Thread(target=claim, args=each) for each in ((first, "a"), (second, "b"))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return len(won) == 2


def test_a_mount_that_gives_a_name_to_two_machines_is_refused(
    seaweedfs: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing that one machine tries shows it. If this fails at the races, the server was mended: take it from the list."""
    folder, shared = tmp_path_factory.mktemp("twice"), f"nas-{secrets.token_hex(4)}"
    with (
        network_mount(seaweedfs, folder / "a", shared) as first,
        network_mount(seaweedfs, folder / "b", shared) as second,
    ):
        assert any(_both_win(first, second, f"name{number}") for number in range(100))
        with pytest.raises(StoreError, match="gives one name to two machines") as refused:
            FolderStore.open_at(first / "store")
    assert "docs/store.md" in str(refused.value.hint)


def test_a_mount_without_hard_links_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rclone")
    with rclone_mount(folder) as where:
        with pytest.raises(StoreError, match="has no hard links") as refused:
            FolderStore.open_at(where / "store")
        assert not (where / "store" / "store.json").exists()
    assert refused.value.exit_code == 7 and "ext4, XFS" in str(refused.value.hint)
