"""What the tests of store, artifacts, log and journal share: real second file systems, crashes, small trees."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.artifacts import taking, tree
from orchestrator.artifacts.version import Manifest, Version, publish, read_verified, resolve
from orchestrator.digest import Digest, of_file
from orchestrator.errors import MirageError, StoreError
from orchestrator.ports import Store
from orchestrator.store.opening import open_store

ROOT = os.geteuid() == 0
NOBODY = 65534
FINE, REFUSED, BROKEN = 0, 3, 4


class Heard:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def stage(self, name: str, detail: str = "") -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def detail(self, text: str) -> None: ...

    def log(self, stream: str, data: bytes) -> None: ...

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None: ...

    def event(self, name: str, fields: Mapping[str, object]) -> None: ...


@contextmanager
def mounted(folder: Path, options: str = "size=64m") -> Iterator[Path]:
    """A tmpfs of its own; for root only."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "mirage-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def disk(kind: str, folder: Path) -> Iterator[Path]:
    """A file system of its own in a file of 512 MiB, of which little is used: "xfs" or "btrfs"."""
    needs_root()
    where, image = folder / "disk", folder / "image"
    where.mkdir(parents=True)
    with image.open("wb") as sink:
        sink.truncate(512 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)
        image.unlink()


def needs_root() -> None:
    """A mount is the test itself: in CI the lack of root is a failure, at a desk a skip."""
    if not ROOT:
        assert "CI" not in os.environ, "this test mounts a file system and CI must run it as root"
        pytest.skip("mounting a file system needs root")


@contextmanager
def second_file_system(tmp: Path) -> Iterator[Path]:
    """A folder on a file system other than ``tmp``'s: a tmpfs of our own, or /dev/shm without root."""
    if ROOT:
        with mounted(tmp / "second") as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            assert os.stat(name).st_dev != os.stat(tmp).st_dev
            yield Path(name)


@dataclass(frozen=True)
class Backend:
    """A store under test: how it is opened, and where this machine keeps its files."""

    uri: str
    project: Path
    root: Path

    def open(self) -> Store:
        return open_store(self.uri, self.project)


@contextmanager
def folder_backend(kind: str, tmp: Path) -> Iterator[Backend]:
    """A store in a folder: "folder", "file-uri" or "second-file-system"."""
    if kind == "folder":
        yield Backend(".mirage/artifacts", tmp, tmp / ".mirage" / "artifacts")
    elif kind == "file-uri":
        yield Backend(f"file://{tmp}/store", tmp, tmp / "store")
    else:
        with second_file_system(tmp) as folder:
            yield Backend(str(folder / "store"), tmp, folder / "store")


def write(store: Store, *pieces: bytes) -> Digest:
    """A blob by its writer."""
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        return writer.commit()[0]


def content(store: Store, digest: Digest) -> bytes:
    """A blob's bytes."""
    with store.open(digest) as source:
        return source.read()


def collect(store: Store, folder: Path) -> tuple[tree.TreeEntry, ...]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from error
    try:
        return taking.collect(store, descriptor)
    finally:
        os.close(descriptor)


def save(
    store: Store,
    folder: Path,
    name: str = "data",
    version: str | None = None,
    run: str | None = None,
    attempt: str | None = None,
) -> Version:
    """Publish a folder the way the outbox does."""
    entries = collect(store, folder)
    files = [entry for entry in entries if entry.kind == "f"]
    kept = store.put(tree.encode(entries))
    size = sum(entry.size for entry in files)
    manifest = Manifest("dataset", name, "tree", None, kept, size, len(files), "{}")
    return publish(store, manifest, version, run, attempt=attempt)


def manifest(store: Store, name: str = "data", text: str = "") -> Manifest:
    """An artifact of one file with that text."""
    digest = store.put(text.encode())
    entry = tree.TreeEntry("text", "f", False, len(text.encode()), digest)
    kept = store.put(tree.encode([entry]))
    return Manifest("dataset", name, "text", "text", kept, entry.size, 1, "{}")


def whole(store: Store, id: str) -> Version:
    """Read everything that a version leads to; AssertionError where a byte is not as promised."""
    found = resolve(store, id)
    for entry in tree.parse(read_verified(store, found.manifest.tree)):
        if entry.digest is not None:
            with store.open(entry.digest) as source:
                assert of_file(source) == entry.digest, f"{id} is torn: {entry.path}"
    return found


def check_store(root: Path) -> int:
    """Every blob of a store in a folder hashes to its name, every version that stands is whole; gives how many blobs."""
    from orchestrator.artifacts.version import standing
    from orchestrator.store.folder import FolderStore

    count = 0
    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            with path.open("rb") as source:
                assert of_file(source) == f"sha256:{path.name}", f"torn blob {path.name}"
            count += 1
    store = FolderStore.open_at(root)
    for ref in standing(store):
        whole(store, str(ref))
    return count


def blob(root: Path, digest: Digest) -> Path:
    name = digest.removeprefix("sha256:")
    return root / "blobs" / "sha256" / name[:2] / name


def staged(root: Path) -> list[str]:
    return sorted(os.listdir(root / "staging"))


def open_descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(found)


def in_child(action: Callable[[], object], *, nobody: bool = False) -> int:
    """Run in a forked process: FINE, REFUSED (StoreError) or BROKEN (anything else, printed)."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            if nobody and ROOT:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            action()
            code = FINE
        except StoreError:
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def injected(
    action: Callable[[], object],
    what: str,
    trace: Path,
    *,
    also: str = "",
    meanwhile: Callable[[int], None] = lambda child: None,
) -> tuple[int, bool]:
    """Run in a forked process under `strace --inject=what`; gives its end and whether the fault was met.

    The calls named in ``also`` are traced too, with the paths of their descriptors; ``meanwhile`` is called beside it
    with its process id.

    The process waits until strace holds it, so the count of system calls begins with the action.
    """
    gate_read, gate_write = os.pipe()
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            os.close(gate_write)
            os.read(gate_read, 1)
            os.close(gate_read)
            action()
            code = FINE
        except MirageError:
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(gate_read)
    name = what.partition(":")[0]
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-y", "-o", trace),
            *("-e", f"trace={name},{also}".rstrip(","), f"--inject={what}", "-p", str(child)),
        ],
        stderr=subprocess.PIPE,
    )
    try:
        while _tracer_of(child) == 0:
            assert tracer.poll() is None, tracer.communicate()[1]
    finally:
        os.close(gate_write)
    meanwhile(child)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.wait()
    assert tracer.stderr is not None
    tracer.stderr.close()
    text = trace.read_text(errors="replace")
    return end, end == -signal.SIGKILL or "(INJECTED)" in text


def _tracer_of(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0
