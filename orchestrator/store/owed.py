"""Which blobs this machine still owes a bucket: on disk before a writer hears that they are kept.

Each process has a file of its own, which it locks; what a dead one left is taken over by the next.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import StoreError
from orchestrator.store.disk import told, write_all


class Owed:
    """The digests that one process owes; safe for threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._digests: dict[Digest, None] = {}
        self._descriptor = -1

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._digests

    def all(self) -> list[Digest]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._digests)

    def add(self, digests: Iterable[Digest]) -> None:
        """Owe these too; durable when it returns. Raises StoreError."""
        with self._lock:
            new = [digest for digest in dict.fromkeys(digests) if digest not in self._digests]
            if new:
                with told(f"write to {self._folder}"):
                    write_all(self._file(), "".join(f"{digest}\n" for digest in new).encode())
                    os.fdatasync(self._descriptor)
                self._digests.update(dict.fromkeys(new))

    def settle(self, digests: Iterable[Digest]) -> None:
        """These are in the bucket. The file is emptied with the last of them: one too many there does no harm."""
        with self._lock:
            for digest in digests:
                self._digests.pop(digest, None)
            if not self._digests and self._descriptor >= 0:
                with told(f"write to {self._folder}"):
                    os.ftruncate(self._descriptor, 0)

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
                    self.add(_digests(left.read()))
                    path.unlink()

    def _file(self) -> int:
        """Our own file, made with the first digest; nobody adopts it before it is locked."""
        while self._descriptor < 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                self._descriptor = descriptor
            else:
                os.close(descriptor)  # adopted, empty, in the moment before it was locked
        return self._descriptor

    def close(self) -> None:
        """Give up the file: what it still names is for the next process."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _digests(data: bytes) -> Iterable[Digest]:
    for line in data.decode("ascii", "replace").split("\n"):
        with suppress(StoreError):  # the last line may be cut off: its writer did not hear that it was kept
            yield parse_digest(line)
