"""The store in a folder or on a NAS mount: blobs by digest, objects created at most once by link(2).

Layout and durability rules: docs/store.md. Nothing is visible before it is whole and on disk; a crash
leaves only files under `staging/`, never a torn blob or object.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator import canonical
from orchestrator.digest import CHUNK, Digest, hex_of, of_bytes, of_file, of_hasher, parse_digest
from orchestrator.errors import StoreError

FORMAT = "mirage-store/1"
_KEY_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
# A blob's time stamp is fixed: hard links of it are mounted into runs, and a changed stamp tells tampering.
BLOB_MTIME = 1


class FolderStore:
    """A Store in a folder; safe for any number of processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known_folders: set[Path] = set()

    @property
    def location(self) -> str:
        """The folder."""
        return str(self._root)

    @classmethod
    def open_at(cls, root: Path) -> FolderStore:
        """Open the store, making it where there is none.

        Raises StoreError where the folder cannot be used or holds a store of another format.
        """
        store = cls(root)
        with _told(f"open the store {root}"):
            root.mkdir(parents=True, exist_ok=True)
        described = store.read("store.json")
        if described is None:
            identity = {"format": FORMAT, "id": secrets.token_hex(16)}
            store.create("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            store.create("store.json", canonical.encode(dict(identity)))
            described = store.read("store.json")
        try:
            content = canonical.decode(described or b"")
        except ValueError:
            content = None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise StoreError(
                f"{root} holds a store of another format (expected {FORMAT})",
                hint="use the Mirage version that made it, or name another folder under `store:`",
            )
        return store

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""
        return self.blob_path(digest).exists()

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob lies."""
        name = hex_of(parse_digest(digest))
        return self._root / "blobs" / "sha256" / name[:2] / name

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading."""
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError as error:
            raise StoreError(
                f"{digest} is not in the store {self._root}", hint="was it removed by hand, or never pushed?"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot read {digest}: {error.strerror}") from error

    def put(self, data: bytes) -> Digest:
        """Keep small bytes as a blob."""
        digest = of_bytes(data)
        if not self.has(digest):
            with self.writer() as writer:
                writer.write(data)
                writer.commit()
        return digest

    @contextmanager
    def writer(self) -> Iterator[_Writer]:
        """Write a blob of any size; without a commit nothing stays behind."""
        with _told(f"write to the store {self._root}"):
            writer = _Writer(self, self._staged())
        try:
            yield writer
        finally:
            writer.discard()

    def put_file(self, path: Path, *, digest: Digest, link: bool) -> None:
        """Keep a file whose digest the caller just computed; a copy is hashed again while it is made."""
        if self.has(digest):
            return
        with _told(f"keep {path.name} in the store {self._root}"):
            if link:
                staged = self._staged()
                try:
                    os.link(path, staged, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
                        raise
                else:
                    _sync_file(staged)
                    self._name_blob(staged, digest)
                    return
        with path.open("rb") as source, self.writer() as writer:
            for piece in iter(lambda: source.read(CHUNK), b""):
                writer.write(piece)
            found, _ = writer.commit()
        if found != digest:
            raise StoreError(f"{path.name} changed while it was stored (expected {digest}, got {found})")

    def materialise(self, digest: Digest, target: Path, *, executable: bool) -> None:
        """Make the blob appear at ``target``: mode 0444 by hard link, or 0555 as a copy of its own.

        The bytes are hashed; StoreError where they are not what the digest says.
        """
        with self.open(digest) as source:
            found = of_file(source)
            if found != digest:
                raise StoreError(
                    f"the store {self._root} holds damaged bytes for {digest} (they hash to {found})",
                    hint="restore the blob from another copy of the store, or publish the artifact again",
                )
            with _told(f"lay out {digest}"):
                if not executable and os.fstat(source.fileno()).st_size:
                    try:
                        os.link(self.blob_path(digest), target)
                        return
                    except OSError as error:
                        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
                            raise
                source.seek(0)
                with target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK)
                target.chmod(0o555 if executable else 0o444)

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists; durable when it returns.

        link(2) decides, as O_EXCL and rename do not on every NAS; a lost reply is told by the link
        count of our own uniquely named file.
        """
        target = self._key_path(key)
        with _told(f"write {key}"):
            staged = self._staged()
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                self._make_folder(target.parent)
                try:
                    os.link(staged, target)
                except OSError:
                    if staged.stat().st_nlink != 2:
                        if target.exists():
                            return False
                        raise
                _sync_folder(target.parent)
            finally:
                staged.unlink(missing_ok=True)
        return True

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None."""
        try:
            return self._key_path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {key} in {self._root}: {error.strerror}") from error

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in bytewise order."""
        top = self._key_path(prefix.rstrip("/"))
        pending = [top] if top.is_dir() else []
        found: list[str] = []
        while pending:
            folder = pending.pop()
            with _told(f"list {folder}"), os.scandir(folder) as items:
                for item in items:
                    if item.is_dir(follow_symlinks=False):
                        pending.append(Path(item.path))
                    else:
                        found.append(str(Path(item.path).relative_to(self._root).as_posix()))
        yield from sorted(found)

    def _key_path(self, key: str) -> Path:
        parts = key.split("/")
        if any(not part or part.startswith(".") or not _KEY_PART.issuperset(part) for part in parts):
            raise StoreError(f"not a key: {key[:200]!r}")
        return self._root.joinpath(*parts)

    def _staged(self) -> Path:
        folder = self._root / "staging"
        self._make_folder(folder)
        return folder / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and everything above it, each named durably before it is used."""
        if folder in self._known_folders:
            return
        missing: list[Path] = []
        step = folder
        while not step.is_dir():
            missing.append(step)
            step = step.parent
        for made in reversed(missing):
            made.mkdir(exist_ok=True)
            _sync_folder(made.parent)
        self._known_folders.add(folder)

    def _name_blob(self, staged: Path, digest: Digest) -> None:
        """Give a finished, fsynced file its name; takes ``staged`` away."""
        target = self.blob_path(digest)
        try:
            self._make_folder(target.parent)
            staged.chmod(0o444)
            os.utime(staged, (BLOB_MTIME, BLOB_MTIME))
            try:
                os.link(staged, target)
            except OSError:
                if staged.stat().st_nlink < 2 and not target.exists():
                    raise
            _sync_folder(target.parent)
        finally:
            staged.unlink(missing_ok=True)


class _Writer:
    """A blob being written into `staging/`."""

    def __init__(self, store: FolderStore, staged: Path) -> None:
        self._store = store
        self._staged = staged
        self._hasher = hashlib.sha256()
        self._size = 0
        self._file = staged.open("xb", buffering=0)

    def write(self, piece: bytes) -> object:
        """Add bytes."""
        self._hasher.update(piece)
        self._size += len(piece)
        with _told(f"write to the store {self._store.location}"):
            _write_all(self._file.fileno(), piece)
        return None

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible."""
        digest = of_hasher(self._hasher)
        with _told(f"write to the store {self._store.location}"):
            if not self._store.has(digest):
                os.fsync(self._file.fileno())
                self._file.close()
                self._store._name_blob(self._staged, digest)
        return digest, self._size

    def discard(self) -> None:
        """Leave nothing under `staging/`."""
        self._file.close()
        with suppress(OSError):
            self._staged.unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_sync_folder = _sync_file  # fsync of a directory makes the names in it durable


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into a StoreError that says what to do next."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space (`mirage doctor` shows where it went), then run the command again",
            errno.EDQUOT: "the quota is used up: free some space, then run the command again",
            errno.EACCES: "check who owns the folder and its permissions",
            errno.EPERM: "check who owns the folder and its permissions",
            errno.EROFS: "the file system is mounted read-only: name a writable one under `store:`",
        }
        raise StoreError(f"cannot {what}: {error.strerror}", hint=hints.get(error.errno or 0)) from error
