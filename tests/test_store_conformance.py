"""What every store promises, whatever is behind its URI (ports.Store): one suite for all backends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store
from tests.s3_tools import bucket_backend
from tests.store_tools import (
    Backend,
    collect,
    content,
    folder_backend,
    open_descriptors,
    save,
    staged,
    whole,
)

ABSENT = of_bytes(b"nobody ever stored this")


FOLDERS = ["folder", "file-uri", "second-file-system"]


@pytest.fixture(params=[*FOLDERS, "seaweedfs"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param in FOLDERS:
        with folder_backend(request.param, tmp_path) as backend:
            yield backend
    else:
        server = request.getfixturevalue(request.param)
        with bucket_backend(server, tmp_path) as backend:
            yield backend


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()


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
    assert content(store, of_bytes(data)) == data
    assert store.put(data) == of_bytes(data)


def test_a_piece_may_change_after_it_was_written(store: Store) -> None:
    piece = bytearray(os.urandom(MIB))
    before = bytes(piece)
    with store.writer() as writer:
        writer.write(piece)  # type: ignore[arg-type]  # mypy no longer takes bytearray for bytes; callers do
        piece[:] = bytes(MIB)
        assert writer.commit()[0] == of_bytes(before)
    assert content(store, of_bytes(before)) == before


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
        assert content(store, of_bytes(data)) == data
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
    assert content(store, digest) == b"content of a file"
    assert path.read_bytes() == b"content of a file"
    path.unlink()
    assert content(store, digest) == b"content of a file"


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
    store.put(b"first")  # from here on a store on a bucket holds its list of what it owes
    before = _files()
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
    assert _files() == before


def _files() -> list[str]:
    """What is open, apart from connections, which are kept for the next request."""
    return [name for name in open_descriptors() if not name.startswith("socket:")]


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
