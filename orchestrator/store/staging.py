"""Blobs on their way into a folder: written under `staging/`, made durable, and only then named by digest.

A blob's name is given by rename(2), so it is never torn, and one that was damaged is replaced by a whole one.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from orchestrator.digest import CHUNK, Digest, of_hasher, sha256
from orchestrator.store import mounts
from orchestrator.store.disk import sync, told, write_all
from orchestrator.store.following import NUDGE, copied

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


# A blob's time stamp is fixed: hard links of it are mounted into runs, and a changed stamp tells tampering.
BLOB_MTIME = 1
# From this size of a piece on, hashing in a second thread is worth the hand-over.
_WORTH_A_THREAD = 256 << 10
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

    def present(self, digest: Digest, size: int | None) -> bool:
        """Whether the blob is there and may be trusted."""


# The names that are given there; the second one is that of a blob that another process may go on with.
STAGED = re.compile(r"[0-9]+-[0-9a-f]{16}(\.[12])?|[0-9a-f]{64}(\.[0-9a-f]{8})?\.part")


def staged_name(place: Staging) -> str:
    """A path under `staging/` that nobody else uses."""
    return os.path.join(place.staging(), f"{os.getpid()}-{os.urandom(8).hex()}")


class StagedFile(ABC):
    """One file under `staging/`, that becomes a blob."""

    def __init__(self, place: Place) -> None:
        self.size = 0
        self._place = place
        self._what = f"write to the store {place.location}"
        self._mine = True
        self._done: tuple[Digest, int] | None = None
        with told(self._what):
            self.path, self._descriptor = self._opened(place)

    def _opened(self, place: Place) -> tuple[str, int]:
        path = staged_name(place)
        return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    @abstractmethod
    def digest(self) -> Digest:
        """The digest of what was written so far."""

    def finish(self, *, durable: bool) -> None:
        """End writing: the file is whole, has its final mode and stamp, and is on disk if ``durable``."""
        seal(self._descriptor)
        if durable:
            os.fsync(self._descriptor)

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible; gives its digest and size in bytes."""
        if self._done is None:
            digest = self.digest()
            with told(self._what):
                name = self._place.room_for(digest)
                if not self._place.present(digest, self.size):
                    self.finish(durable=True)
                    mounts.rename(self.path, name, lambda: self._place.present(digest, self.size))
                    self.hand_over()
                # also where another process named it: its own sync may still be to come
                sync(os.path.dirname(name))
            self._done = digest, self.size
        return self._done

    def hand_over(self) -> str:
        """The path of the finished file, which is the caller's now."""
        self._mine = False
        return self.path

    def discard(self) -> None:
        """Close, and leave nothing under `staging/` that was not handed over or named."""
        if self._descriptor >= 0:
            if self._mine:
                remove(self.path)
            os.close(self._descriptor)
            self._descriptor = -1


class Staged(StagedFile):
    """A BlobWriter: what goes in is hashed, in a second thread where the pieces are large."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._hasher = sha256()
        self._helper: ThreadPoolExecutor | None = None
        self._hashing: Future[None] | None = None
        self._nudged = 0
        self._ends_in_hole = False
        self._copied: Digest | None = None

    def write(self, piece: bytes) -> object:
        """Add bytes; whole pieces of zeros become holes."""
        self._settle()
        if len(piece) < _WORTH_A_THREAD:
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
            if self.size - self._nudged >= NUDGE:
                # On dirty pages this begins the write-back, so that fsync finds little left to do.
                os.posix_fadvise(
                    self._descriptor, self._nudged, self.size - self._nudged, os.POSIX_FADV_DONTNEED
                )
                self._nudged = self.size
        return None

    def copy(self, source: int, size: int) -> Digest:
        """All of it at once: the next bytes of an open file. Raises as following.copied, and StoreError."""
        self.size = size
        with told(self._what):
            self._copied = copied(source, self._descriptor, size)
        return self._copied

    def digest(self) -> Digest:
        """The digest of what was written so far."""
        self._settle()
        return self._copied or of_hasher(self._hasher)

    def finish(self, *, durable: bool) -> None:
        """End writing, as every staged file."""
        if self._ends_in_hole:
            os.ftruncate(self._descriptor, self.size)
        super().finish(durable=durable)

    def discard(self) -> None:
        """Close, as every staged file."""
        if self._helper is not None:
            self._helper.shutdown()
            self._helper = None
        super().discard()

    def _settle(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None


def seal(descriptor: int) -> None:
    """Give a blob its final mode and time stamp."""
    os.fchmod(descriptor, 0o444)
    os.utime(descriptor, (BLOB_MTIME, BLOB_MTIME))


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    with suppress(OSError):
        os.unlink(path)
