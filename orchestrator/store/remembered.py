"""Objects of a bucket as this machine saw them: what answers while the bucket does not.

Objects never change, so an old copy is a true one; what others made since is not known. Written without a sync: a copy
that a crash tore is told by the hash before it, and is none.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.digest import Digest
from orchestrator.errors import StoreError
from orchestrator.store.disk import told
from orchestrator.store.keys import check_key

if TYPE_CHECKING:
    from orchestrator.store.folder import FolderStore


class Remembered:
    """Copies of objects below a folder, by key; safe for any number of processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, key: str, data: bytes) -> None:
        """Remember an object. Raises StoreError where it cannot be written."""
        path = self._path(key)
        if path.exists():
            return
        with told(f"write to {self._folder}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.parent / f".{os.getpid()}-{secrets.token_hex(4)}"
            new.write_bytes(hashlib.sha256(data).digest() + data)
            new.replace(path)

    def read(self, key: str) -> bytes | None:
        """The object, or None where it was never seen, or its copy is torn."""
        try:
            found = self._path(key).read_bytes()
        except OSError:
            return None
        return found[32:] if hashlib.sha256(found[32:]).digest() == found[:32] else None

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys of the objects below a prefix, in no order."""
        for folder, _, names in os.walk(self._folder / prefix):
            for name in names:
                with suppress(StoreError):
                    key = str((Path(folder) / name).relative_to(self._folder))
                    check_key(key)
                    yield key

    def remove(self, key: str) -> None:
        """Forget an object."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._folder / key


class MachineCopy:
    """What a machine has of a store in a bucket: blobs that it fetched or wrote, and objects as it saw them."""

    def __init__(self, local: FolderStore, seen: Remembered) -> None:
        self._local = local
        self._seen = seen
        self.location = "this machine's copy"

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob. Raises StoreError where it is not here."""
        return self._local.open(digest)

    def read(self, key: str) -> bytes | None:
        """An object."""
        return self._seen.read(key)
