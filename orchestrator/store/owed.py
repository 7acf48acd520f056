"""Which blobs this machine still owes a bucket: on disk before a writer hears that they are kept.

Each process has a file of its own, which it locks; what a dead one left is taken over by the next.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import StoreError
from orchestrator.ports import Ahead, Helper
from orchestrator.store.disk import told, write_all
from orchestrator.store.intake import FolderIntake
from orchestrator.store.staging import Staged

if TYPE_CHECKING:
    from orchestrator.store.folder import FolderStore


class Owed:
    """The digests that one process owes; safe for threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._digests: dict[Digest, None] = {}
        self._adopted: set[Digest] = set()  # what dead processes owed: it may never have been kept
        self._file: IO[bytes] | None = None

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._digests

    def all(self) -> list[Digest]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._digests)

    def add(self, digests: Iterable[Digest]) -> None:
        """Owe these too; durable when it returns. Raises StoreError."""
        with self._lock:
            asked = dict.fromkeys(digests)
            self._adopted.difference_update(asked)
            new = [digest for digest in asked if digest not in self._digests]
            if new:
                with told(f"write to {self._folder}"):
                    descriptor = self._opened().fileno()
                    write_all(descriptor, "".join(f"{digest}\n" for digest in new).encode())
                    os.fdatasync(descriptor)
                self._digests.update(dict.fromkeys(new))

    def settle(self, digests: Iterable[Digest]) -> None:
        """These are in the bucket. The file is emptied with the last of them: one too many there does no harm."""
        with self._lock:
            for digest in digests:
                self._digests.pop(digest, None)
            if not self._digests and self._file is not None:
                with told(f"write to {self._folder}"):
                    os.ftruncate(self._file.fileno(), 0)
                    os.lseek(self._file.fileno(), 0, os.SEEK_SET)  # or the next line begins behind a hole

    def adopt(self) -> None:
        """Take over what dead processes owed. Raises StoreError."""
        with told(f"read {self._folder}"):
            try:
                paths = sorted(self._folder.iterdir())
            except FileNotFoundError:
                return
            for path in paths:
                with suppress(FileNotFoundError), path.open("rb") as left:
                    try:
                        fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    found = list(_digests(left.read()))
                    self.add(found)
                    self._adopted.update(found)
                    path.unlink()

    def check(self, local: FolderStore, there: Callable[[Digest], bool]) -> None:
        """What this process took is here, or is ``there``. Raises StoreError where it is in neither.

        That is a copy that went, to make room, in the moment in which it was taken again.
        """
        for digest in self.all():
            if digest not in self._adopted and not local.blob_path(digest).exists() and not there(digest):
                self.settle([digest])
                raise StoreError(
                    f"{digest} went from {local.location} before it was pushed",
                    hint="run the command again: it is taken anew",
                )

    def _opened(self) -> IO[bytes]:
        """Our own file, made with the first digest; an object, so that it is closed with its owner."""
        while self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            made = path.open("xb", buffering=0)
            fcntl.flock(made, fcntl.LOCK_EX)
            if os.fstat(made.fileno()).st_nlink:
                self._file = made
            else:
                made.close()  # adopted, empty, in the moment before it was locked
        return self._file

    def close(self) -> None:
        """Give up the file: what it still names is for the next process."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def of_all(folder: Path) -> set[Digest]:
    """What all processes owe, living and dead."""
    found: set[Digest] = set()
    with suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            with suppress(FileNotFoundError):
                found.update(_digests(path.read_bytes()))
    return found


def _digests(data: bytes) -> Iterable[Digest]:
    for line in data.decode("ascii", "replace").split("\n"):
        with suppress(StoreError):  # the last line may be cut off: its writer did not hear that it was kept
            yield parse_digest(line)


class OwedWriter:
    """A BlobWriter into the machine's copy, which is then owed to the bucket."""

    def __init__(self, writer: Staged, owed: Owed) -> None:
        self._writer = writer
        self._owed = owed

    def write(self, piece: bytes) -> object:
        """Add bytes."""
        return self._writer.write(piece)

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible."""
        done = self._writer.commit()
        self._owed.add([done[0]])
        return done


class OwedIntake:
    """An Intake into the machine's copy that remembers what it took."""

    def __init__(self, intake: FolderIntake) -> None:
        self._intake = intake
        self.digests: dict[Digest, None] = {}

    def helper(self) -> Helper[Ahead] | None:
        """Start a process that reads files."""
        return self._intake.helper()

    @property
    def sealed(self) -> Mapping[tuple[int, int], Digest]:
        """Device and inode of the files that became blobs where they lie."""
        return self._intake.sealed

    def add(self, descriptor: int, size: int, ahead: Ahead | None = None) -> tuple[Digest, int]:
        """Take an open file."""
        taken = self._intake.add(descriptor, size, ahead)
        self.digests[taken[0]] = None
        return taken
