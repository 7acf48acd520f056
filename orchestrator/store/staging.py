"""Blobs on their way into a folder: written under `staging/`, made durable, and only then named by digest.

A blob's name is given by rename(2), so it is never torn, and one that was damaged is replaced by a whole one.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from orchestrator.digest import CHUNK, Digest, of_bytes, of_hasher, sha256
from orchestrator.errors import ArtifactError
from orchestrator.store.disk import NO_LINK, RACY, sync, sync_many, told, write_all

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# A blob's time stamp is fixed: hard links of it are mounted into runs, and a changed stamp tells tampering.
BLOB_MTIME = 1
# From this size of a piece on, hashing in a second thread is worth the hand-over.
LARGE = 256 << 10
# How many bytes are written between two nudges to the kernel to begin putting them on disk.
_NUDGE = 16 << 20
# How many files of an intake wait for one sync: bounds memory, and what is lost with the process.
TOGETHER = 16384
_ZEROS = bytes(CHUNK)


class Staging(Protocol):
    """A folder in which files are written before they are named."""

    @property
    def location(self) -> str:
        """Its name, for messages."""

    def staging(self) -> str:
        """The folder for unfinished files, made where it is missing."""


class Place(Staging, Protocol):
    """The folder that blobs go to."""

    def room_for(self, digest: Digest) -> str:
        """The path of a blob; its folder is made, durably, where it is missing."""

    def present(self, digest: Digest, size: int) -> bool:
        """Whether the blob is there and may be trusted."""


STAGED = re.compile(r"[0-9]+-[0-9a-f]{16}(\.[12])?")  # the names that are given there


def staged_name(place: Staging) -> str:
    """A path under `staging/` that nobody else uses."""
    return os.path.join(place.staging(), f"{os.getpid()}-{os.urandom(8).hex()}")


class Staged:
    """One file under `staging/`; what goes in is hashed, in a second thread where the pieces are large."""

    def __init__(self, place: Place) -> None:
        self.path = staged_name(place)
        self.size = 0
        self._what = f"write to the store {place.location}"
        self._hasher = sha256()
        self._helper: ThreadPoolExecutor | None = None
        self._hashing: Future[None] | None = None
        self._nudged = 0
        self._ends_in_hole = False
        self._mine = True
        with told(self._what):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, piece: bytes) -> object:
        """Add bytes; whole pieces of zeros become holes."""
        self._settle()
        if len(piece) < LARGE:
            self._hasher.update(piece)
        else:
            if self._helper is None:
                from concurrent.futures import ThreadPoolExecutor

                self._helper = ThreadPoolExecutor(1)
            self._hashing = self._helper.submit(self._hasher.update, bytes(piece))
        self._ends_in_hole = len(piece) == CHUNK and piece == _ZEROS
        with told(self._what):
            if self._ends_in_hole:
                os.lseek(self._descriptor, CHUNK, os.SEEK_CUR)
            else:
                write_all(self._descriptor, piece)
            self.size += len(piece)
            if self.size - self._nudged >= _NUDGE:
                # On dirty pages this begins the write-back, so that fsync finds little left to do.
                os.posix_fadvise(
                    self._descriptor, self._nudged, self.size - self._nudged, os.POSIX_FADV_DONTNEED
                )
                self._nudged = self.size
        return None

    def digest(self) -> Digest:
        """The digest of what was written so far."""
        self._settle()
        return of_hasher(self._hasher)

    def finish(self, *, durable: bool) -> None:
        """End writing: the file is whole, has its final mode and stamp, and is on disk if ``durable``."""
        if self._ends_in_hole:
            os.ftruncate(self._descriptor, self.size)
        seal(self._descriptor)
        if durable:
            os.fsync(self._descriptor)

    def hand_over(self) -> str:
        """The path of the finished file, which is the caller's now."""
        self._mine = False
        return self.path

    def discard(self) -> None:
        """Close, and leave nothing under `staging/` that was not handed over or named."""
        if self._helper is not None:
            self._helper.shutdown()
            self._helper = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if self._mine:
                _remove(self.path)

    def _settle(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None


class Writer:
    """A BlobWriter: one blob, durable at its commit."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._staged = Staged(place)
        self._done: tuple[Digest, int] | None = None

    def write(self, piece: bytes) -> object:
        """Add bytes."""
        return self._staged.write(piece)

    def digest(self) -> Digest:
        """The digest of what was written so far."""
        return self._staged.digest()

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible."""
        if self._done is None:
            digest, size = self._staged.digest(), self._staged.size
            with told(f"write to the store {self._place.location}"):
                name = self._place.room_for(digest)
                if not self._place.present(digest, size):
                    self._staged.finish(durable=True)
                    os.rename(self._staged.path, name)
                    self._staged.hand_over()
                # also where another process named it: its own sync may still be to come
                sync(os.path.dirname(name))
            self._done = digest, size
        return self._done

    def discard(self) -> None:
        """Leave nothing under `staging/`."""
        self._staged.discard()


class FolderIntake:
    """An Intake: many files, durable and visible together, with one sync instead of one for each.

    Several threads may add at once.
    """

    def __init__(self, place: Place, *, link: bool = False) -> None:
        self._place = place
        self._link = link
        self._what = f"write to the store {place.location}"
        self._waiting: dict[Digest, tuple[str, str]] = {}  # where it is staged, what its name will be
        # staged names of the owner's files: size and mtime when hashed
        self._linked: dict[str, tuple[int, int]] = {}
        self._folders: set[str] = set()
        self._coming: set[Digest] = set()  # a thread writes these
        self._lock = threading.RLock()  # of all four
        self._buffers = threading.local()

    def add(self, descriptor: int, size: int) -> tuple[Digest, int]:
        """Take at most ``size`` bytes of an open file; gives the digest and size of what was taken."""
        if len(self._waiting) >= TOGETHER:
            with self._lock:
                if len(self._waiting) >= TOGETHER:
                    self.flush()  # before this one: who added the last may still look at its times, which it sets
        taken = self._add_link(descriptor, size) if self._link else None
        if taken is not None:
            return taken
        return self._add_large(descriptor, size) if size >= LARGE else self._add_small(descriptor, size)

    def _add_link(self, descriptor: int, size: int) -> tuple[Digest, int] | None:
        """Hash a file where it lies and give it a second name; None where only a copy will do."""
        before = os.fstat(descriptor)
        if before.st_size != size or not size or before.st_mode & 0o111:
            return None  # an empty file is shared by too many; an executable one would lose its bit
        if os.geteuid() not in (0, before.st_uid) or before.st_mtime_ns > time.time_ns() - RACY:
            return None  # it is not ours to make read-only; or its time would not tell of a change while it is hashed
        digest = self._digest_of(descriptor, size)
        name = self._name_if_new(digest, size)
        if name is None:
            return digest, size
        try:
            with told(self._what):
                path = staged_name(self._place)
                try:
                    # The very file that was hashed, whatever its name is by now (linkat(2), AT_SYMLINK_FOLLOW). Python
                    # calls link(2), which does not follow, unless it is given a directory; an absolute path ignores it.
                    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
                except OSError as error:
                    if error.errno not in NO_LINK and not isinstance(error, FileNotFoundError):
                        raise
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    return None
            with self._lock:
                self._linked[path] = before.st_size, before.st_mtime_ns
                self._waiting[digest] = path, name
        finally:
            self._coming.discard(digest)
        return digest, size

    def _seal_linked(self) -> None:
        """Make the owner's files read-only, unless somebody wrote to one since it was hashed."""
        for path, (size, mtime) in self._linked.items():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if (status.st_size, status.st_mtime_ns) != (size, mtime):
                    raise ArtifactError(
                        "a file changed while it was taken",
                        hint="finish writing before it is added with --link",
                    )
                seal(descriptor)
            finally:
                os.close(descriptor)
        self._linked.clear()

    def _add_small(self, descriptor: int, size: int) -> tuple[Digest, int]:
        buffer = self._buffer()
        count = 0
        while count < size:
            got = _read_into(descriptor, buffer[count:size])
            if not got:
                break
            count += got
        return self.add_bytes(buffer[:count])

    def add_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        """Take bytes in memory."""
        digest = of_bytes(data)
        name = self._name_if_new(digest, len(data))
        if name is not None:
            try:
                with told(self._what):
                    path = staged_name(self._place)
                    try:
                        _write_small(path, data)
                    except BaseException:
                        _remove(path)
                        raise
                self._waiting[digest] = path, name
            finally:
                self._coming.discard(digest)
        return digest, len(data)

    def _add_large(self, descriptor: int, size: int) -> tuple[Digest, int]:
        staged = Staged(self._place)
        try:
            for piece in _pieces(descriptor, size):
                staged.write(piece)
            digest = staged.digest()
            name = self._name_if_new(digest, staged.size)
            if name is not None:
                try:
                    with told(self._what):
                        staged.finish(durable=False)
                    self._waiting[digest] = staged.hand_over(), name
                finally:
                    self._coming.discard(digest)
        finally:
            staged.discard()
        return digest, staged.size

    def _name_if_new(self, digest: Digest, size: int) -> str | None:
        """The path that the blob will have, and it is then coming; None where it is there or on its way."""
        with told(self._what), self._lock:
            if digest in self._waiting or digest in self._coming:
                return None
            name = self._place.room_for(digest)
            if self._place.present(digest, size):
                self._folders.add(os.path.dirname(name))  # another process's own sync may still be to come
                return None
            self._coming.add(digest)
            return name

    def _buffer(self) -> memoryview:
        """CHUNK bytes of this thread's own."""
        found: memoryview | None = getattr(self._buffers, "view", None)
        if found is None:
            found = self._buffers.view = memoryview(bytearray(CHUNK))
        return found

    def _digest_of(self, descriptor: int, size: int) -> Digest:
        """The digest of the next ``size`` bytes of an open file. ArtifactError where it is shorter, or cannot be read."""
        hasher, buffer = sha256(), self._buffer()
        while size > 0:
            count = _read_into(descriptor, buffer[:size])
            if not count:
                raise ArtifactError(
                    "a file changed while it was taken", hint="finish writing before it is added"
                )
            hasher.update(buffer[:count])
            size -= count
        return of_hasher(hasher)

    def flush(self) -> None:
        """Make what was added durable, then visible."""
        with told(self._what), self._lock:
            self._seal_linked()
            ready = list(self._waiting.items())  # other threads may go on adding
            sync_many([path for _, (path, _) in ready], self._place.staging())
            for digest, (path, name) in ready:
                os.rename(path, name)
                del self._waiting[digest]
                self._folders.add(os.path.dirname(name))
            for folder in self._folders:
                sync(folder)
            self._folders.clear()

    def discard(self) -> None:
        """Leave nothing under `staging/`."""
        for path, _ in self._waiting.values():
            _remove(path)


def seal(descriptor: int) -> None:
    """Give a blob its final mode and time stamp."""
    os.fchmod(descriptor, 0o444)
    os.utime(descriptor, (BLOB_MTIME, BLOB_MTIME))


def _write_small(path: str, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        seal(descriptor)
    finally:
        os.close(descriptor)


def _read_into(descriptor: int, buffer: memoryview) -> int:
    """Read an open file on from its position; gives how many bytes came, 0 at its end. ArtifactError where it cannot be."""
    try:
        return os.readv(descriptor, [buffer])
    except OSError as error:
        raise ArtifactError(f"a file cannot be read: {error.strerror}") from error


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """An open file from its current position, at most ``size`` bytes. ArtifactError where it cannot be read."""
    while size > 0:
        try:
            piece = os.read(descriptor, min(CHUNK, size))
        except OSError as error:
            raise ArtifactError(f"a file cannot be read: {error.strerror}") from error
        if not piece:
            return
        size -= len(piece)
        yield piece


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
