"""The store in a folder or on a NAS mount: its blobs, by digest; objects are folder_objects.py's.

Layout and durability rules: docs/store.md. Nothing is visible before it is whole and on disk; a crash
leaves only files under `staging/`, never a torn blob or object.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes, of_file, parse_digest
from orchestrator.errors import StoreError
from orchestrator.store import folder_upkeep, mounts
from orchestrator.store.disk import NO_LINK, open_regular, sync, told
from orchestrator.store.folder_objects import FolderObjects
from orchestrator.store.following import Unreadable, copied
from orchestrator.store.intake import FolderIntake
from orchestrator.store.keys import FORMAT, check_format
from orchestrator.store.probing import probe
from orchestrator.store.staging import BLOB_MTIME, Staged, seal, staged_name

if TYPE_CHECKING:
    from orchestrator.ports_upkeep import Held
    from orchestrator.store.scattered import Scattered

_EMPTY = Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # of no bytes
# What a dead process left under `staging/` goes after this many seconds; a living one is never that slow.
_STALE = 7 * 24 * 3600.0


class FolderStore(FolderObjects):
    """A Store in a folder; safe for any number of processes at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._blobs = str(root / "blobs" / "sha256")

    @classmethod
    def open_at(cls, root: Path) -> FolderStore:
        """Open the store, making it where there is none.

        Raises StoreError where the folder cannot be used or holds a store of another format.
        """
        store = cls(root)
        described = store.read("store.json")
        if described is None:
            store._make()
            described = store.read("store.json")
        check_format(described, str(root), "folder")
        folder_upkeep.check_staging(store._staging)
        with suppress(StoreError):
            store.sweep(_STALE, pretend=False)
        return store

    def _make(self) -> None:
        """Make a new store; `store.json` comes last, so that one half made is made on at the next opening."""
        with told(f"open the store {self._root}"):
            self._make_folder(str(self._root))
            self._make_folder(self._staging)
            self._make_folder(self._blobs)
            # All of them now: a publish then makes no folder, and has none to make durable.
            for number in range(256):
                os.makedirs(os.path.join(self._blobs, f"{number:02x}"), exist_ok=True)
            sync(self._blobs)
        probe(self)
        self.create("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self.create("store.json", canonical.encode({"format": FORMAT, "id": os.urandom(16).hex()}))

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there; one that was written to since it was stored is hashed first."""
        if self.present(digest, None):
            return True
        if self.is_near():
            return False
        with suppress(OSError):  # another machine may have stored it since this one looked
            mounts.forget(os.path.dirname(self._blob(digest)))
        return self.present(digest, None)

    def present(self, digest: Digest, size: int | None) -> bool:
        """Whether the blob is there and may be trusted: a file, of that size, with an untouched time stamp.

        A torn file (not ours: ours are synced before they are named) is not, and is then written anew.
        """
        path = self._blob(digest)
        try:
            status = os.lstat(path) if self.is_near() else mounts.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError(f"cannot look for {digest} in {self._root}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            return False
        expected = status.st_size if size is None else size
        if status.st_size != expected or (status.st_size == 0) != (digest == _EMPTY):
            return False
        return status.st_mtime_ns == BLOB_MTIME * 10**9 or self._proved(digest)

    def _proved(self, digest: Digest) -> bool:
        with self.open(digest) as source:
            try:
                if of_file(source) != digest:
                    return False
            except OSError:
                return False
        with suppress(OSError):  # it may be another user's; it is then hashed each time
            os.utime(self._blob(digest), (BLOB_MTIME, BLOB_MTIME))
        return True

    def _blob(self, digest: Digest) -> str:
        name = hex_of(parse_digest(digest))
        return f"{self._blobs}/{name[:2]}/{name}"

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob lies."""
        return Path(self._blob(digest))

    def room_for(self, digest: Digest) -> str:
        """Where a blob goes; its folder is there."""
        path = self._blob(digest)
        folder = os.path.dirname(path)
        if folder not in self._known_folders:
            self._know_folders(folder)
        return path

    def _know_folders(self, wanted: str) -> None:
        """Make a folder of blobs where it is missing; one sync is for all that are there."""
        self._make_folder(self._blobs)
        there = {f"{self._blobs}/{name}" for name in os.listdir(self._blobs)}
        if wanted in there:
            sync(self._blobs)
            self._known_folders.update(there)
        else:
            self._make_folder(wanted)

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading."""
        path = self._blob(digest)
        try:
            try:
                return open(open_regular(path), "rb")
            except FileNotFoundError:
                if self.is_near():
                    raise
                mounts.stir(str(self._root), os.path.dirname(path))
                return open(open_regular(path), "rb")
        except FileNotFoundError as error:
            self._doubt(digest)
            raise StoreError(
                f"{digest} is not in the store {self._root}", hint="was it removed by hand, or never pushed?"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot read {digest}: {error.strerror}") from error

    def put(self, data: bytes) -> Digest:
        """Keep small bytes as a blob; where it is there already, it is compared."""
        digest = of_bytes(data)
        with suppress(OSError, StoreError):
            if self.present(digest, len(data)):
                if self.blob_path(digest).read_bytes() == data:
                    sync(os.path.dirname(self._blob(digest)))
                    return digest
                self._doubt(digest)
        with self.writer() as writer:
            writer.write(data)
            writer.commit()
        return digest

    def _doubt(self, digest: Digest) -> None:
        """Mark a blob whose bytes were seen to be wrong or gone: whoever stores it next replaces it."""
        from orchestrator.ports_upkeep import DOUBT  # loading it takes a tenth of a question to the index

        with suppress(OSError):
            os.utime(self._blob(digest))
        with suppress(StoreError):
            self.replace(DOUBT, canonical.encode({"blob": digest, "seen": os.urandom(8).hex()}))

    @contextmanager
    def writer(self) -> Iterator[Staged]:
        """Write a blob of any size; without a commit nothing stays behind."""
        staged = Staged(self)
        try:
            yield staged
        finally:
            staged.discard()

    @contextmanager
    def scattered(self, digest: Digest, size: int, extent: int) -> Iterator[Scattered]:
        """A blob of known size that threads write in extents; it is committed once it was followed."""
        from orchestrator.store.scattered import Scattered

        staged = Scattered(self, digest, size, extent)
        try:
            yield staged
        finally:
            staged.discard()

    @contextmanager
    def intake(self, *, link: bool = False) -> Iterator[FolderIntake]:
        """Take many files, which are durable and visible when this is left without an error."""
        intake = FolderIntake(self, link=link)
        try:
            yield intake
            intake.flush()
        finally:
            intake.discard()

    def put_file(self, path: Path, *, digest: Digest, link: bool) -> None:
        """Keep a file whose digest the caller just computed; a copy is hashed again while it is made."""
        if link and self._put_link(path, digest):
            return
        with self.writer() as writer:
            with told(f"read {path}"), path.open("rb", buffering=0) as source:
                try:
                    writer.copy(source.fileno(), os.fstat(source.fileno()).st_size)
                except Unreadable as error:
                    raise StoreError(f"{path.name} cannot be kept: {error}") from error
            found, _ = writer.commit()
        if found != digest:
            raise StoreError(f"{path.name} changed while it was stored (expected {digest}, got {found})")

    def _put_link(self, path: Path, digest: Digest) -> bool:
        """Keep a file by a second name of its own; False where only a copy will do."""
        with told(f"keep {path.name} in the store {self._root}"):
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{path} is not a regular file")
            target = self.room_for(digest)
            if not self.present(digest, status.st_size):
                staged = staged_name(self)
                try:
                    with suppress(
                        FileExistsError
                    ):  # nobody else has that name: a lost answer, asked for again
                        os.link(path, staged, follow_symlinks=False)
                    descriptor = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        seal(descriptor)
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                    mounts.rename(staged, target, lambda: self.present(digest, status.st_size))
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
                    return False
                finally:
                    # rename(2) leaves the old name where both are one file already
                    with suppress(OSError):
                        os.unlink(staged)
            sync(os.path.dirname(target))
        return True

    def materialise(self, digest: Digest, target: Path, *, executable: bool) -> None:
        """Make the blob appear at ``target``: mode 0444 by hard link, or 0555 as a copy of its own.

        The bytes are hashed; StoreError where they are not what the digest says.
        """
        with self.open(digest) as source, told(f"lay out {digest} at {target}"):
            status = os.fstat(source.fileno())
            if not executable and status.st_size and status.st_dev == os.stat(target.parent).st_dev:
                self._check(digest, of_file(source))
                try:
                    os.link(self._blob(digest), target)
                    return
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
                os.lseek(source.fileno(), 0, os.SEEK_SET)
            with target.open("x+b", buffering=0) as sink:
                try:
                    try:
                        self._check(digest, copied(source.fileno(), sink.fileno(), status.st_size))
                    except Unreadable as error:
                        raise StoreError(
                            f"the store {self._root} cannot give all of {digest}: {error}"
                        ) from error
                    os.fchmod(sink.fileno(), 0o555 if executable else 0o444)
                except BaseException:
                    target.unlink()
                    raise

    def _check(self, digest: Digest, found: Digest) -> None:
        if found != digest:
            self._doubt(digest)
            raise StoreError(
                f"the store {self._root} holds damaged bytes for {digest} (they hash to {found})",
                hint="restore the blob from another copy of the store, or publish the artifact again",
            )

    def fetch(self, digests: Iterable[Digest], count: Callable[[int], object] = lambda size: None) -> None:
        """Nothing: they are here."""

    @property
    def collected(self) -> bool:
        """It may: writers take part by sessions."""
        return True

    def insist(self) -> None:
        """A folder gives no answers but its own."""

    def since(self, state: str) -> None:
        """Nothing of what was seen is remembered."""

    def pending(self) -> Iterable[Digest]:
        """Nothing: what is kept is here."""
        return ()

    def flush(self) -> None:
        """Nothing is on its way."""

    def blobs(self) -> Iterator[Held]:
        """Every blob, in no order."""
        return folder_upkeep.blobs(self, self._blobs)

    def hashed(self) -> Iterator[tuple[Held, bool]]:
        """Every blob, with whether it is whole."""
        return folder_upkeep.hashed(list(self.blobs()), self.open)

    def begins(self, digest: Digest, size: int) -> bytes:
        """A blob's first bytes."""
        with self.open(digest) as source:
            return source.read(size)

    def remove(self, digests: Iterable[Digest], before: Callable[[], None] = lambda: None) -> int:
        """Remove blobs; missing is fine."""
        return folder_upkeep.remove(self, digests, before)

    def loose(self) -> Iterator[Digest]:
        """Blobs that can be written to, or were touched."""
        return folder_upkeep.loose(self._blobs)

    def tighten(self, digest: Digest) -> bool:
        """Make a blob that was seen to be whole read-only again."""
        return folder_upkeep.tighten(self._blob(digest))

    def sweep(self, older_than: float, *, pretend: bool) -> tuple[int, int]:
        """Remove what dead writers left under `staging/`."""
        return folder_upkeep.sweep(self, older_than, pretend)
