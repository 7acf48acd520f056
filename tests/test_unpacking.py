"""Blobs that come in packs, taken out by two processes: the same as by one, whatever becomes of the second."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import StoreError
from orchestrator.store import helping, packs, unpacking
from orchestrator.store.s3 import S3Store
from tests.helper_tools import Started, answers, kill_after
from tests.s3_tools import Server, credentials, environment, shared_bucket, store_at
from tests.store_tools import check_store, mounted, needs_root, open_descriptors, staged

# of all sizes: more spans than there are rooms, of some messages each
_SIZES = [1, 100, 4_000, 30_000, 60_000] * 60 + [0]


@pytest.fixture
def contents() -> dict[Digest, bytes]:
    source = random.Random(7)
    return {of_bytes(data): data for data in map(source.randbytes, _SIZES)}


@pytest.fixture
def there(
    seaweedfs: Server, contents: dict[Digest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Store]:
    """A store whose bucket has the contents in packs; what is small here is large elsewhere."""
    monkeypatch.setattr(unpacking, "WORTH", 50)
    monkeypatch.setattr(unpacking, "_MESSAGE", 4)
    monkeypatch.setattr(packs, "_SPAN", 256 << 10)
    with environment(credentials(seaweedfs.endpoint)):
        bucket = shared_bucket(seaweedfs, tmp_path / "cache")
        store = store_at(seaweedfs.place(bucket, secrets.token_hex(6)), tmp_path / "cache")
        for data in contents.values():
            store.put(data)
        store.push_owed()
        yield store
        store.close()


def _other(store: S3Store, folder: Path) -> S3Store:
    """The same store on a machine that has nothing of it."""
    return store_at(store.bucket.place, folder)


def _check(store: S3Store, contents: dict[Digest, bytes], left: bool = False) -> None:
    """``left``: a process that was killed may have left what a sweep takes away."""
    for digest, data in contents.items():
        assert store.local.blob_path(digest).read_bytes() == data
    root = store.local.blob_path(next(iter(contents))).parents[3]
    assert check_store(root) >= len(contents) and (left or staged(root) == [])


def test_two_processes_take_the_same_blobs_out(
    there: S3Store,
    contents: dict[Digest, bytes],
    tmp_path: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, other = answers(monkeypatch, helping.Taker), _other(there, tmp_path / "other")
    before, counted = open_descriptors(), list[int]()
    other.fetch(contents, counted.append)
    assert sum(counted) == sum(map(len, contents.values()))
    assert sum(given) >= 8, "how much more depends on who else wants the cores"
    assert max(given) <= 4
    assert [each.poll() for each in started] == [0]
    assert [each for each in open_descriptors() if "memfd" in each] == []
    assert len(open_descriptors()) <= len(before) + 8, "connections stay"
    _check(other, contents)


def test_a_slow_helper_keeps_its_memory_to_the_end(
    there: S3Store,
    contents: dict[Digest, bytes],
    tmp_path: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it was given first is answered last: nothing else may come to where that lies."""
    monkeypatch.setattr(helping.Taker, "answered", lambda self: False)
    given, other = answers(monkeypatch, helping.Taker), _other(there, tmp_path / "other")
    other.fetch(contents)
    assert len(given) == packs.HELD
    _check(other, contents)


@pytest.mark.parametrize("after", [0, 1])
def test_a_helper_that_is_killed_costs_time_only(
    there: S3Store,
    contents: dict[Digest, bytes],
    tmp_path: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    kill_after(monkeypatch, helping.Taker, started, after)
    other = _other(there, tmp_path / "other")
    other.fetch(contents)
    assert started[0].poll() == -9
    _check(other, contents, left=True)


def test_a_helper_that_cannot_be_started_is_done_without(
    there: S3Store, contents: dict[Digest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    other = _other(there, tmp_path / "other")
    other.fetch(contents)
    _check(other, contents)


@pytest.mark.parametrize("where", [0, 0.3, 0.6, 1])
def test_damaged_bytes_are_told_and_nothing_is_left(
    there: S3Store, contents: dict[Digest, bytes], tmp_path: Path, started: Started, where: float
) -> None:
    """Whoever of the two comes to them."""
    (pack,) = (key for key, _ in there.bucket.list("packs/") if not key.endswith(".idx"))
    found = there.bucket.part(pack, 0, 32 << 20)
    assert found is not None
    data = bytearray(found[0])
    data[int(where * (len(data) - 1))] ^= 1
    there.bucket.put(pack, bytes(data), of_bytes(bytes(data)), "none")
    other = _other(there, tmp_path / "other")
    with pytest.raises(StoreError, match="holds damaged bytes"):
        other.fetch(contents)
    assert [each.poll() for each in started] == [0]
    assert [each for each in open_descriptors() if "memfd" in each] == []
    root = other.local.blob_path(next(iter(contents))).parents[3]
    assert staged(root) == []
    check_store(root)


def test_a_full_disk_is_told_and_leaves_nothing(
    there: S3Store, contents: dict[Digest, bytes], tmp_path: Path, started: Started
) -> None:
    """The helper is refused first; that it tried is not to be seen."""
    needs_root()
    with mounted(tmp_path / "disk", "size=3m") as folder:
        other = _other(there, folder)
        with pytest.raises(StoreError, match="No space left"):
            other.fetch(contents)
        assert [each.poll() for each in started] == [0]
        assert staged(other.local.blob_path(next(iter(contents))).parents[3]) == []


def test_a_python_without_memfd_create_uses_files(
    there: S3Store,
    contents: dict[Digest, bytes],
    tmp_path: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    given, other = answers(monkeypatch, helping.Taker), _other(there, tmp_path / "other")
    other.fetch(contents)
    assert sum(given) >= 8
    _check(other, contents)


def test_a_pack_that_went_is_looked_for_elsewhere(
    there: S3Store, contents: dict[Digest, bytes], tmp_path: Path
) -> None:
    """Between the listing and the reading, as `mirage gc` may do: what is needed is in another pack then."""
    other = _other(there, tmp_path / "other")
    other._packs.refresh()
    listed = dict(other._packs._packs)
    there.remove([next(iter(contents))])
    assert list(listed) != [key for key, _ in there.bucket.list("packs/") if not key.endswith(".idx")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other._packs, "refresh", lambda: patch.undo())
        other.fetch(list(contents)[1:])
    for digest, data in list(contents.items())[1:]:
        assert other.local.blob_path(digest).read_bytes() == data


def test_without_room_in_memory_it_is_said(
    there: S3Store, contents: dict[Digest, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(StoreError, match="cannot make room for what comes: Too many open files"):
        _other(there, tmp_path / "other").fetch(contents)
