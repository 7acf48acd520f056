"""What a store does against the ways of a network's file system: lost answers, stale handles, kinds that are refused.

The real ones are in tests/stress/test_nas.py; here are their answers, one by one.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts.version import read_verified
from orchestrator.errors import StoreError
from orchestrator.store import mounts, promises
from orchestrator.store.disk import read_regular
from orchestrator.store.folder import FolderStore
from tests.store_tools import FINE, in_child, mounted, needs_root, staged, write

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A store's folder on a file system that is no disk, as a mount of the network is none."""
    needs_root()
    with mounted(tmp_path / "mount") as where:
        yield where / "store"


@pytest.fixture
def store(root: Path) -> FolderStore:
    return FolderStore.open_at(root)


def _no_such_file() -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def test_a_lost_answer_to_rename_is_told_by_what_is_there(
    store: FolderStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def lossy(source: str, target: str) -> None:  # a server that did it, began anew, and was asked again
        rename(source, target)
        raise _no_such_file()

    (tmp_path / "file").write_bytes(b"taken")
    monkeypatch.setattr(os, "rename", lossy)
    digest = write(store, b"written")
    store.replace("gc/state.json", b"{}")
    with store.intake() as intake, (tmp_path / "file").open("rb") as source:
        taken, _ = intake.add(source.fileno(), 5)
    monkeypatch.undo()
    assert read_verified(store, digest) == b"written"
    assert read_verified(store, taken) == b"taken"
    assert store.read("gc/state.json") == b"{}"
    assert staged(root) == []


def test_a_rename_that_was_not_carried_out_is_told(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: str, target: str) -> None:
        raise _no_such_file()

    store.replace("gc/state.json", b"before")
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(StoreError):
        write(store, b"written")
    with pytest.raises(StoreError):
        store.replace("gc/state.json", b"after")
    assert store.read("gc/state.json") == b"before"


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(3))

    def stale(path: str) -> bytes:
        if next(times, None) is not None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read_regular(path)

    store.replace("gc/state.json", b"{}")
    monkeypatch.setattr(mounts, "read_regular", stale)
    assert store.read("gc/state.json") == b"{}"
    monkeypatch.setattr(mounts, "LATE", 0.05)
    times = iter(range(10_000))
    with pytest.raises(StoreError, match="Stale file handle"):
        store.read("gc/state.json")


@pytest.mark.parametrize(
    ("kind", "options", "problem", "hint"),
    [
        ("cifs", "rw", r"is SMB \(cifs\)", "by NFS too"),
        ("nfs4", "rw,nocto", "is mounted with nocto", "mount it without nocto"),
    ],
)
def test_what_no_store_can_rest_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, problem: str, hint: str
) -> None:
    monkeypatch.setattr(promises, "file_system", lambda folder: (kind, frozenset(options.split(","))))
    with pytest.raises(StoreError, match=problem) as refused:
        FolderStore.open_at(tmp_path / "store")
    assert refused.value.exit_code == 7 and hint in str(refused.value.hint)
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_mounts_options_are_found(root: Path) -> None:
    kind, options = promises.file_system(root.parent)
    assert kind == "tmpfs" and "rw" in options and "size=65536k" in options


def test_what_is_small_needs_little_memory(store: FolderStore) -> None:
    """However much is allowed: a machine with less than that free reads it too."""
    digest = write(store, os.urandom(3 << 20))

    def look() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GIB // 4, used + GIB // 4))
        assert len(read_verified(store, digest)) == 3 << 20
        with pytest.raises(StoreError, match="is larger than 2 MiB"):
            read_verified(store, digest, limit=2 << 20)

    assert in_child(look) == FINE
