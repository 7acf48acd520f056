"""What was hashed before and has not changed since, by stat: an unchanged file is not read again.

One file for each folder or file that was added, in the machine's cache, never in a store. A file counts as unchanged
while inode, size, mtime and ctime are what they were; ctime cannot be set back by hand. One that had changed less than
two seconds before it was looked at is not kept: a further change could have the same time (git's racy rule,
Documentation/technical/racy-git.txt). A program that goes on writing through mmap may change a file unseen.

A file that became a blob where it lies (`--link`) carries the blobs' own time stamp from then on, which it was given after
it was hashed and had not changed: who writes to it moves that stamp, however soon. That is believed of the very files that
the store has sealed, and of no other with such a stamp.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.digest import Digest, hex_of
from orchestrator.store.disk import RACY
from orchestrator.store.staging import BLOB_MTIME

_SCHEMA = "mirage-stat/1"

Stamp = tuple[int, int, int, int]


def stamp_of(status: os.stat_result) -> Stamp:
    """What changes with a file's content."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class StatIndex:
    """The digests of one folder's files, as they were when it was added last."""

    def __init__(self, cache: Path, folder: Path) -> None:
        top = folder.resolve()
        self._top = str(top)
        name = hashlib.sha256(os.fsencode(top)).hexdigest()[:32]
        self._file = cache / "stat" / f"{name}.json"
        self._base = self._top if os.path.isdir(top) else os.path.dirname(self._top)
        self.young = time.time_ns() - RACY  # what changed after it may change again unseen
        self._known: dict[str, list[int | str]] = {}
        self._seen: dict[str, list[int | str]] = {}
        self._taken: dict[str, tuple[int, str]] = {}  # size and digest of what was read now
        self._sealed: Mapping[tuple[int, int], Digest] = {}
        self._device = 0
        with suppress(OSError):
            self._device = os.stat(top).st_dev
        self._loaded = False

    def _load(self) -> None:
        self._loaded = True
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            item = json.loads(self._file.read_bytes())
            if (item["schema"], item["top"], item["device"]) == (_SCHEMA, self._top, self._device):
                self._known = dict(item["files"])

    def find(self, path: str, status: os.stat_result) -> Digest | None:
        """The digest of a file that has not changed since it was hashed."""
        if not self._loaded:
            self._load()
        found = self._known.get(path)
        if found is None or len(found) != 5 or tuple(found[:4]) != stamp_of(status):
            return None
        self._seen[path] = found
        return Digest(f"sha256:{found[4]}")

    def keep(self, path: str, status: os.stat_result, digest: Digest) -> None:
        """Remember what a file was when it was opened, unless it had changed just then."""
        self._taken[path] = status.st_size, hex_of(digest)
        if max(status.st_mtime_ns, status.st_ctime_ns) < self.young:
            self._seen[path] = [*stamp_of(status), hex_of(digest)]

    def sealed(self, files: Mapping[tuple[int, int], Digest]) -> None:
        """Of what was taken, these became blobs where they lie, and have another stamp by that: their device and inode."""
        self._sealed = files

    def noted(self, path: str, status: os.stat_result) -> bool:
        """Whether a file is known, with the stamp that it has now; one that the store has sealed gets known by this."""
        taken = self._taken.get(path)
        if (
            taken is not None
            and self._sealed.get((status.st_dev, status.st_ino)) == f"sha256:{taken[1]}"
            and status.st_size == taken[0]
            and is_blob(status)
        ):
            self._seen[path] = [*stamp_of(status), taken[1]]
            return True
        found = self._seen.get(path)
        return found is not None and tuple(found[:4]) == stamp_of(status)

    def settle(self) -> None:
        """Ask that of all that was taken."""
        for path in self._taken:
            with suppress(OSError):
                self.noted(path, os.lstat(os.path.join(self._base, path)))

    def save(self) -> None:
        """Write down what was seen, whole; an index that cannot be written costs time only."""
        if self._seen == self._known:
            return
        data = {"schema": _SCHEMA, "top": self._top, "device": self._device, "files": self._seen}
        write_whole(self._file, json.dumps(data, separators=(",", ":")).encode())


def is_blob(status: os.stat_result) -> bool:
    """Whether a file has the time stamp and the mode of a store's blobs."""
    return status.st_mtime_ns == BLOB_MTIME * 10**9 and status.st_mode == stat.S_IFREG | 0o444


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of the cache, so that no reader sees half of it; where it cannot be written it costs time only."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
