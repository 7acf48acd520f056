"""What holds for a store in a folder beyond ports.Store: damage, time stamps, links, what others left there."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.digest import of_bytes
from orchestrator.errors import StoreError
from orchestrator.ports import Store
from orchestrator.store import folder as folder_store
from orchestrator.store.folder import FolderStore
from orchestrator.store.opening import open_store
from tests.store_tools import (
    FINE,
    ROOT,
    Backend,
    blob,
    check_store,
    collect,
    content,
    folder_backend,
    in_child,
    mounted,
    needs_root,
    staged,
    write,
)

ABSENT = of_bytes(b"nobody ever stored this")
MIB = 1 << 20


@pytest.fixture(params=["folder", "file-uri", "second-file-system"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with folder_backend(request.param, tmp_path) as backend:
        yield backend


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()


def _tear(path: Path, how: str) -> None:
    """What a power cut (not under our order of writing), a bad disk or a person can leave."""
    path.chmod(0o644)
    if how == "empty":
        path.write_bytes(b"")
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "flipped":
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    elif how == "link":
        path.unlink()
        path.symlink_to("/etc/hostname")
    else:
        path.unlink()


TEARS = ["empty", "short", "flipped", "link", "gone"]


@pytest.mark.parametrize("how", TEARS)
@pytest.mark.parametrize("size", [5, MIB])
def test_a_torn_blob_is_replaced_by_the_next_who_has_it(
    backend: Backend, store: Store, tmp_path: Path, how: str, size: int
) -> None:
    data = os.urandom(size)
    digest = store.put(data)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(data)

    def by_put() -> None:
        assert store.put(data) == digest

    def by_writer() -> None:
        assert write(store, data) == digest

    def by_intake() -> None:
        assert collect(store, source)[0].digest == digest

    def by_file() -> None:
        store.put_file(source / "file", digest=digest, link=False)

    def by_link() -> None:
        copy = tmp_path / "copy"
        copy.write_bytes(data)
        store.put_file(copy, digest=digest, link=True)
        copy.unlink()

    for again in (by_put, by_writer, by_intake, by_file, by_link):
        _tear(blob(backend.root, digest), how)
        assert not store.has(digest)
        again()
        assert store.has(digest)
        assert content(store, digest) == data, again.__name__
    check_store(backend.root)


@pytest.mark.parametrize("executable", [False, True])
def test_damage_is_told_and_healed_by_the_next_publish(
    backend: Backend, store: Store, tmp_path: Path, executable: bool
) -> None:
    digest = store.put(b"good bytes")
    path = blob(backend.root, digest)
    stamp = path.stat().st_mtime_ns
    _tear(path, "flipped")
    os.utime(path, ns=(stamp, stamp))  # as a bad disk does it: nothing but the bytes tells
    assert store.has(digest)
    with pytest.raises(StoreError, match="damaged bytes"):
        store.materialise(digest, tmp_path / "out", executable=executable)
    assert not (tmp_path / "out").exists()
    assert not store.has(digest), "seen to be damaged, and trusted again"
    assert write(store, b"good bytes") == digest
    store.materialise(digest, tmp_path / "out", executable=executable)
    assert (tmp_path / "out").read_bytes() == b"good bytes"


def test_small_bytes_are_compared_before_they_are_believed_to_be_there(
    backend: Backend, store: Store
) -> None:
    digest = store.put(b"good bytes")
    path = blob(backend.root, digest)
    _tear(path, "flipped")
    os.utime(path, (1, 1))
    assert store.put(b"good bytes") == digest
    assert content(store, digest) == b"good bytes"


def test_a_blob_copied_without_its_time_stamp_is_proved_once(backend: Backend, store: Store) -> None:
    digest = store.put(b"copied by hand")
    path = blob(backend.root, digest)
    os.utime(path)
    assert store.has(digest)
    assert path.stat().st_mtime == 1


def test_blobs_on_one_file_system_are_shared_not_copied(backend: Backend, store: Store) -> None:
    digest = store.put(b"shared")
    store.materialise(digest, backend.root / "out", executable=False)
    assert (backend.root / "out").stat().st_ino == blob(backend.root, digest).stat().st_ino
    store.materialise(digest, backend.root / "run", executable=True)
    assert (backend.root / "run").stat().st_nlink == 1


def test_zeros_take_no_room(backend: Backend, store: Store) -> None:
    digest = write(store, *[bytes(MIB)] * 20)
    assert blob(backend.root, digest).stat().st_blocks * 512 < MIB


def test_every_object_can_be_read_by_others_whatever_the_umask(backend: Backend, store: Store) -> None:
    before = os.umask(0o077)
    try:
        digest = store.put(b"for all")
        store.create("refs/dataset/all/v1.json", b"{}")
    finally:
        os.umask(before)
    assert blob(backend.root, digest).stat().st_mode & 0o777 == 0o444
    assert (backend.root / "refs/dataset/all/v1.json").stat().st_mode & 0o777 == 0o444


def test_what_others_left_among_the_objects_is_no_key(backend: Backend, store: Store) -> None:
    store.create("refs/dataset/d/v1.json", b"{}")
    folder = backend.root / "refs" / "dataset" / "d"
    for name in (".nfs000012", ".DS_Store", "v2.json~", "ä", "with space"):
        (folder / name).write_bytes(b"")
    (folder / ".snapshot").mkdir()
    (folder / ".snapshot" / "v9.json").write_bytes(b"")
    assert list(store.keys("refs/")) == ["refs/dataset/d/v1.json"]


def test_a_lost_reply_to_link_is_still_ours(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lossy(source: str, target: str) -> None:  # an NFS server that did it, and whose answer was lost
        link(source, target)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", lossy)
    assert store.create("refs/dataset/lost/v1.json", b"ours")
    monkeypatch.undo()
    assert not store.create("refs/dataset/lost/v1.json", b"other")
    assert store.read("refs/dataset/lost/v1.json") == b"ours"


def test_a_store_half_made_is_made_on(backend: Backend, store: Store) -> None:
    (backend.root / "store.json").unlink()
    (backend.root / "blobs" / "sha256" / "07").rmdir()
    again = backend.open()
    assert content(again, again.put(b"7")) == b"7"
    assert (backend.root / "store.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format":"mirage-store/9"}', b"[" * 100_000])
def test_a_store_of_another_format_is_left_alone(backend: Backend, store: Store, content: bytes) -> None:
    path = backend.root / "store.json"
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="another format"):
        backend.open()
    assert path.read_bytes() == content


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        open_store("file", tmp_path)


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gopher"):
        open_store("gopher://host/store", tmp_path)


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    def opener() -> None:
        store = open_store("store", tmp_path)
        assert store.put(b"x") == of_bytes(b"x")

    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os._exit(in_child(opener))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [FINE] * 8
    check_store(tmp_path / "store")


def test_a_read_only_store_can_be_read(tmp_path: Path) -> None:
    needs_root()
    with mounted(tmp_path / "nas") as folder:
        digest = open_store(str(folder / "store"), tmp_path).put(b"shared by the lab")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        store = open_store(str(folder / "store"), tmp_path)
        assert content(store, digest) == b"shared by the lab"
        store.materialise(digest, tmp_path / "out", executable=False)
        with pytest.raises(StoreError) as caught:
            store.put(b"more")
        assert "read-only" in str(caught.value)


def test_leftovers_of_the_long_dead_are_swept(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backend.root / "staging" / "123-00112233445566aa"
    path.write_bytes(b"left by a crash")
    os.utime(path, (1, 1))  # a finished blob has this stamp: it must not count
    backend.open()
    assert path.exists(), "a living process may be about to name it"
    monkeypatch.setattr(folder_store, "_STALE", -1.0)
    backend.open()
    assert not path.exists()


@pytest.mark.skipif(not ROOT, reason="root may do anything, so the refusal is seen as another user only")
def test_a_folder_that_is_not_ours_is_told(tmp_path: Path) -> None:
    root = tmp_path / "store"
    FolderStore.open_at(root)

    def foreign() -> None:
        with pytest.raises(StoreError) as caught:
            FolderStore(root).put(b"x")
        assert caught.value.hint is not None

    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    assert in_child(foreign, nobody=True) == FINE


# --- upkeep ---


def test_blobs_are_listed_with_size_and_age_and_removed(store: Store) -> None:
    digests = {store.put(b"x" * size): size for size in (0, 1, 100)}
    time.sleep(0.05)
    assert {held.digest: held.size for held in store.blobs()} == digests
    assert all(0.0 < held.age < 600.0 for held in store.blobs())
    first, *others = digests
    assert store.remove([first, ABSENT]) <= 2
    assert not store.has(first)
    assert {held.digest for held in store.blobs()} == set(others)
    assert store.put(b"") in digests, "what was removed can be stored again"


def test_an_object_is_replaced_whole_and_discarded(store: Store) -> None:
    for number in range(3):
        store.replace("gc/session/one.json", b"%d" % number * 1000, durable=number == 2)
        assert store.read("gc/session/one.json") == b"%d" % number * 1000
    assert list(store.keys("gc/session/")) == ["gc/session/one.json"]
    store.discard("gc/session/one.json")
    store.discard("gc/session/one.json")
    assert store.read("gc/session/one.json") is None
    assert list(store.keys("gc/session/")) == []
    assert store.create("gc/session/one.json", b"again")


def test_keys_have_ages_by_the_servers_clock(store: Store) -> None:
    store.replace("gc/session/one.json", b"1")
    time.sleep(1.1)  # a bucket's time stamps have whole seconds
    store.replace("gc/session/two.json", b"2")
    ages = dict(store.ages("gc/session/"))
    assert set(ages) == {"gc/session/one.json", "gc/session/two.json"}
    assert ages["gc/session/two.json"] < ages["gc/session/one.json"] < 600.0
    store.replace("gc/session/one.json", b"1")
    assert dict(store.ages("gc/session/"))["gc/session/one.json"] <= ages["gc/session/one.json"]


def test_what_dead_writers_left_is_swept(backend: Backend, store: Store) -> None:
    assert in_child(lambda: _die_writing(store)) == -signal.SIGKILL
    assert store.sweep(3600.0, pretend=False) == (0, 0)
    count, size = store.sweep(0.0, pretend=True)
    assert (count, size) == (1, MIB)
    assert store.sweep(0.0, pretend=False) == (1, MIB)
    assert staged(backend.root) == []


def _die_writing(store: Store) -> None:
    with store.writer() as writer:
        writer.write(os.urandom(MIB))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("size", [5, 100_000, (8 << 20) + 5])
def test_a_blob_that_can_have_no_further_name_is_laid_out_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    store = FolderStore.open_at(tmp_path / "store")
    data = os.urandom(size)
    digest = store.put(data)
    monkeypatch.setattr(os, "link", full)
    store.materialise(digest, tmp_path / "out", executable=False)
    assert (tmp_path / "out").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o444
    assert not os.path.samefile(tmp_path / "out", store.blob_path(digest))
