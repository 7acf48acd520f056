"""What every store promises, whatever is behind its URI (ports.Store): one suite for all backends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store
from orchestrator.store import folder as folder_backend
from orchestrator.store.folder import FolderStore
from orchestrator.store.opening import open_store
from tests.store_tools import (
    FINE,
    ROOT,
    blob,
    check_store,
    collect,
    in_child,
    mounted,
    needs_root,
    open_descriptors,
    save,
    second_file_system,
    staged,
    whole,
)

ABSENT = of_bytes(b"nobody ever stored this")


@dataclass(frozen=True)
class Backend:
    """A store under test: how it is opened, and where its files lie if it is a folder."""

    uri: str
    project: Path
    root: Path

    def open(self) -> Store:
        return open_store(self.uri, self.project)


@pytest.fixture(params=["folder", "file-uri", "second-file-system"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "folder":
        yield Backend(".mirage/artifacts", tmp_path, tmp_path / ".mirage" / "artifacts")
    elif request.param == "file-uri":
        yield Backend(f"file://{tmp_path}/store", tmp_path, tmp_path / "store")
    else:
        with second_file_system(tmp_path) as folder:
            yield Backend(str(folder / "store"), tmp_path, folder / "store")


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()


def _write(store: Store, *pieces: bytes) -> Digest:
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        return writer.commit()[0]


def _bytes(store: Store, digest: Digest) -> bytes:
    with store.open(digest) as source:
        return source.read()


KIB, MIB = 1 << 10, 1 << 20
CONTENTS = {
    "empty": (),
    "one byte": (b"x",),
    "empty pieces": (b"", b"a", b"", b"b"),
    "just below a helper's size": (os.urandom(256 * KIB - 1),),
    "a helper's size": (os.urandom(256 * KIB), b"tail"),
    "large pieces": (os.urandom(MIB), os.urandom(MIB), os.urandom(3 * MIB + 1)),
    "zeros": (bytes(MIB), bytes(MIB)),
    "zeros inside": (b"head", bytes(MIB), bytes(MIB), os.urandom(MIB)),
    "zeros at the end": (os.urandom(MIB), bytes(MIB), bytes(MIB)),
}


@pytest.mark.parametrize("pieces", CONTENTS.values(), ids=CONTENTS.keys())
def test_what_is_written_is_read_back_under_its_digest(store: Store, pieces: tuple[bytes, ...]) -> None:
    data = b"".join(pieces)
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        assert not store.has(of_bytes(data))
        assert writer.commit() == (of_bytes(data), len(data))
        assert writer.commit() == (of_bytes(data), len(data))
    assert store.has(of_bytes(data))
    assert _bytes(store, of_bytes(data)) == data
    assert store.put(data) == of_bytes(data)


def test_a_piece_may_change_after_it_was_written(store: Store) -> None:
    piece = bytearray(os.urandom(MIB))
    before = bytes(piece)
    with store.writer() as writer:
        writer.write(piece)  # type: ignore[arg-type]  # mypy no longer takes bytearray for bytes; callers do
        piece[:] = bytes(MIB)
        assert writer.commit()[0] == of_bytes(before)
    assert _bytes(store, of_bytes(before)) == before


def test_without_a_commit_nothing_stays(backend: Backend, store: Store) -> None:
    with pytest.raises(RuntimeError), store.writer() as writer:
        writer.write(b"half of it")
        raise RuntimeError
    with store.writer() as writer:
        writer.write(b"all of it, and nobody committed")
    assert staged(backend.root) == []
    assert not store.has(of_bytes(b"half of it"))
    assert not store.has(of_bytes(b"all of it, and nobody committed"))


def test_many_files_are_taken_together(backend: Backend, store: Store, tmp_path: Path) -> None:
    contents = [os.urandom(number) for number in range(40)] + [os.urandom(MIB + 7), bytes(3 * MIB), b"", b""]
    taken = []
    with store.intake() as intake:
        for number, data in enumerate(contents):
            path = tmp_path / str(number)
            path.write_bytes(data)
            with path.open("rb", buffering=0) as source:
                taken.append(intake.add(source.fileno(), len(data)))
        assert not any(store.has(digest) for digest, _ in taken), "visible before it was durable"
    assert taken == [(of_bytes(data), len(data)) for data in contents]
    for data in contents:
        assert _bytes(store, of_bytes(data)) == data
    assert staged(backend.root) == []


def test_an_intake_that_fails_leaves_nothing(backend: Backend, store: Store, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(os.urandom(MIB))
    with pytest.raises(RuntimeError), store.intake() as intake:
        for name in ("small", "large"):
            with (tmp_path / name).open("rb") as source:
                digest, _ = intake.add(source.fileno(), 2 * MIB)
        raise RuntimeError
    assert not store.has(of_bytes(b"small"))
    assert not store.has(digest)
    assert staged(backend.root) == []


@pytest.mark.parametrize("size", [4, 1000, 400 * KIB])
def test_an_intake_takes_no_more_than_it_was_told(store: Store, tmp_path: Path, size: int) -> None:
    data = os.urandom(600 * KIB)
    (tmp_path / "growing").write_bytes(data)
    with (tmp_path / "growing").open("rb") as source, store.intake() as intake:
        assert intake.add(source.fileno(), size) == (of_bytes(data[:size]), size)
        os.lseek(source.fileno(), 0, os.SEEK_SET)
        assert intake.add(source.fileno(), 2 * len(data)) == (of_bytes(data), len(data))


def test_a_file_that_cannot_be_read_is_the_artifacts_fault(store: Store, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ArtifactError), store.intake() as intake:
            intake.add(descriptor, 10)
        with pytest.raises(ArtifactError), store.intake() as intake:
            intake.add(descriptor, MIB)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("link", [True, False])
def test_a_file_is_kept(store: Store, tmp_path: Path, link: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content of a file")
    digest = of_bytes(b"content of a file")
    store.put_file(path, digest=digest, link=link)
    store.put_file(path, digest=digest, link=link)
    assert _bytes(store, digest) == b"content of a file"
    assert path.read_bytes() == b"content of a file"
    path.unlink()
    assert _bytes(store, digest) == b"content of a file"


def test_a_file_that_is_not_what_was_said_is_not_kept_as_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"changed meanwhile")
    with pytest.raises(StoreError, match="changed while it was stored"):
        store.put_file(tmp_path / "file", digest=ABSENT, link=False)
    assert not store.has(ABSENT)


@pytest.mark.parametrize("what", ["missing", "link", "folder"])
def test_only_regular_files_are_kept(store: Store, tmp_path: Path, what: str) -> None:
    (tmp_path / "secret").write_bytes(b"not to be taken")
    if what == "link":
        (tmp_path / "file").symlink_to(tmp_path / "secret")
    elif what == "folder":
        (tmp_path / "file").mkdir()
    with pytest.raises(StoreError):
        store.put_file(tmp_path / "file", digest=of_bytes(b"not to be taken"), link=True)
    assert not store.has(of_bytes(b"not to be taken"))


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
def test_a_blob_is_laid_out_read_only(store: Store, tmp_path: Path, executable: bool, size: int) -> None:
    data = os.urandom(size)
    store.materialise(store.put(data), tmp_path / "out", executable=executable)
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "out").stat().st_mode & 0o777 == (0o555 if executable else 0o444)


def test_laying_out_never_replaces_a_file(store: Store, tmp_path: Path) -> None:
    digest = store.put(b"blob")
    for executable in (False, True):
        (tmp_path / "out").write_bytes(b"mine")
        with pytest.raises(StoreError):
            store.materialise(digest, tmp_path / "out", executable=executable)
        assert (tmp_path / "out").read_bytes() == b"mine"


def test_what_is_missing_is_told(store: Store, tmp_path: Path) -> None:
    assert not store.has(ABSENT)
    with pytest.raises(StoreError, match="is not in the store"):
        store.open(ABSENT)
    with pytest.raises(StoreError, match="is not in the store"):
        store.materialise(ABSENT, tmp_path / "out", executable=False)
    assert not (tmp_path / "out").exists()
    assert store.read("refs/dataset/none/v1.json") is None
    assert list(store.keys("refs/dataset/none/")) == []


def test_an_object_is_created_once(backend: Backend, store: Store) -> None:
    assert store.create("refs/dataset/d/v1.json", b"first")
    assert not store.create("refs/dataset/d/v1.json", b"second")
    assert not backend.open().create("refs/dataset/d/v1.json", b"third")
    assert store.read("refs/dataset/d/v1.json") == b"first"
    assert backend.open().read("refs/dataset/d/v1.json") == b"first"
    assert staged(backend.root) == []


def test_keys_come_in_bytewise_order(store: Store) -> None:
    keys = ["runs/a-b", "runs/a.json", "runs/a/b", "runs/a/b0", "runs/a0", "runs/Z", "runs/z/9", "runs/z/10"]
    for key in keys:
        assert store.create(key, b"")
    assert list(store.keys("runs/")) == sorted(keys, key=str.encode)
    assert list(store.keys("runs/a/")) == ["runs/a/b", "runs/a/b0"]
    assert list(store.keys("runs/a-b/")) == []


HOSTILE_KEYS = [
    "",
    "/etc/passwd",
    "../outside",
    "refs/../../outside",
    "refs//x",
    "refs/./x",
    "refs/x/",
    "refs/.hidden",
    "refs/a\0b",
    "refs/a\nb",
    "refs/ä",
    "refs/%2e%2e/x",
    "refs/a\\..\\b",
    "refs/" + "x" * 256,
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_a_hostile_key_is_refused(store: Store, backend: Backend, key: str) -> None:
    for action in (store.read, lambda k: store.create(k, b"x"), lambda k: list(store.keys(k + "/"))):
        if key == "refs/x/" and action is not store.read:
            continue
        with pytest.raises(StoreError):
            action(key)
    assert not (backend.root.parent / "outside").exists()


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 64 + "\n",
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "sha256:../../../../etc/passwd",
        "sha256:" + "../" * 21 + "a",
    ],
)
def test_a_hostile_digest_is_refused(store: Store, tmp_path: Path, digest: str) -> None:
    hostile = Digest(digest)
    with pytest.raises(StoreError, match="not a digest"):
        store.has(hostile)
    with pytest.raises(StoreError, match="not a digest"):
        store.open(hostile)
    with pytest.raises(StoreError, match="not a digest"):
        store.materialise(hostile, tmp_path / "out", executable=False)


def test_no_descriptor_is_left_open(backend: Backend, store: Store, tmp_path: Path) -> None:
    before = open_descriptors()
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "large").write_bytes(os.urandom(2 * MIB))
    (tmp_path / "bad").mkdir()
    os.mkfifo(tmp_path / "bad" / "pipe")
    save(store, tmp_path / "tree")
    whole(store, "dataset:data:latest")
    test_without_a_commit_nothing_stays(backend, store)
    test_what_is_missing_is_told(store, tmp_path)
    with pytest.raises(ArtifactError):
        collect(store, tmp_path / "bad")
    with pytest.raises(StoreError):
        store.put_file(tmp_path / "missing", digest=ABSENT, link=False)
    assert open_descriptors() == before


def test_a_stream_of_any_size_needs_little_memory(backend: Backend) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.store.opening import open_store\n"
        "store = open_store(sys.argv[1], Path(sys.argv[2]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with store.writer() as writer:\n"
        "    for number in range(48): writer.write(number.to_bytes(4, 'big') * (1 << 18))\n"
        "    writer.commit()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, backend.uri, backend.project], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 << 10, "KiB more than before for 48 MiB"


# --- what holds for folders ---------------------------------------------------------------------------------


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
        assert _write(store, data) == digest

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
        assert _bytes(store, digest) == data, again.__name__
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
    assert _write(store, b"good bytes") == digest
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
    assert _bytes(store, digest) == b"good bytes"


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
    digest = _write(store, *[bytes(MIB)] * 20)
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
    assert _bytes(again, again.put(b"7")) == b"7"
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
        assert _bytes(store, digest) == b"shared by the lab"
        store.materialise(digest, tmp_path / "out", executable=False)
        with pytest.raises(StoreError) as caught:
            store.put(b"more")
        assert "read-only" in str(caught.value)


def test_leftovers_of_the_long_dead_are_swept(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backend.root / "staging" / "123-dead"
    path.write_bytes(b"left by a crash")
    os.utime(path, (1, 1))  # a finished blob has this stamp: it must not count
    backend.open()
    assert path.exists(), "a living process may be about to name it"
    monkeypatch.setattr(folder_backend, "_STALE", -1.0)
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
