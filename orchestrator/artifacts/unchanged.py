"""A folder that was added before and has not changed since: its tree is known by one walk with stat, and no more.

Owns the fingerprint of a folder and the note, in the machine's cache, of which version had it. Of single files,
stat_index.py knows.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from orchestrator.artifacts.stat_index import StatIndex, write_whole
from orchestrator.artifacts.version import Version, resolve
from orchestrator.digest import of_bytes
from orchestrator.errors import MirageError
from orchestrator.ports import Store
from orchestrator.store.sessions import doubt

_SCHEMA = "mirage-unchanged/1"
_pack = struct.Struct("<QQqqI").pack
_by_name = attrgetter("name")


@dataclass(frozen=True)
class Look:
    """A folder as it is now: the sha256 of all names and stamps, and that of all but the stamps of its files."""

    fingerprint: str
    rest: str
    known: bool  # whether each file is in the index, with the stamp that it has, and nothing else is young


def look(folder: Path, files: StatIndex | None = None) -> Look | None:
    """Walk a folder; None where that cannot be done: whoever reads it then says why."""
    walk = _Walk(files)
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            walk.into(top, "")
        finally:
            os.close(top)
    except (OSError, RecursionError, OverflowError, struct.error):
        return None
    return Look(of_bytes(b"".join(walk.parts)), of_bytes(b"".join(walk.rest)), walk.known)


class _Walk:
    def __init__(self, files: StatIndex | None) -> None:
        self.parts: list[bytes] = []
        self.rest: list[bytes] = []
        self.known = files is not None
        self._files = files

    def into(self, folder: int, prefix: str) -> None:
        """All below an open directory: links and files by their stamps, directories by what is in them."""
        parts, rest, files = self.parts, self.rest, self._files
        parts.append(b"/%d\n" % os.fstat(folder).st_dev)
        inner: list[str] = []
        with os.scandir(folder) as items:
            for item in sorted(items, key=_by_name):
                if item.is_dir(follow_symlinks=False):
                    inner.append(item.name)
                    continue
                status = item.stat(follow_symlinks=False)
                mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
                name = os.fsencode(item.name) + b"\0"
                stamp = _pack(status.st_ino, status.st_size, mtime, ctime, status.st_mode)
                parts += name, stamp
                rest.append(name)
                if not stat.S_ISREG(status.st_mode):
                    rest.append(stamp)
                    self.known = self.known and files is not None and max(mtime, ctime) < files.young
                elif files is not None:
                    self.known = files.noted(prefix + item.name, status) and self.known
        for below in inner:
            name = b"//%b\0" % os.fsencode(below)
            parts.append(name)
            rest.append(name)
            descriptor = os.open(
                below, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
            )
            try:
                self.into(descriptor, f"{prefix}{below}/")
            finally:
                os.close(descriptor)
        parts.append(b"/.\n")
        rest.append(b"/.\n")


class Remembered:
    """Which version a folder became in one store, when it was added last."""

    def __init__(self, cache: Path, folder: Path, store: Store) -> None:
        top, where = os.fsencode(folder.resolve()), store.read("store.json") or store.location.encode()
        name = of_bytes(top + b"\n" + where)[7:39]
        self._file = cache / "stat" / f"{name}.unchanged.json"

    def find(self, store: Store, now: Look | None) -> Version | None:
        """The version whose files are these, all of them in the store: it stands, and nothing of the store is in doubt.

        To be asked within a session, which then keeps them.
        """
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, MirageError):
            item = json.loads(self._file.read_bytes())
            if now is None or (item["schema"], item["fingerprint"]) != (_SCHEMA, now.fingerprint):
                return None
            if item["doubt"] != doubt(store):
                return None
            found = resolve(store, str(item["id"]))
            return found if found.digest == item["digest"] else None
        return None

    def save(self, store: Store, before: Look | None, after: Look | None, made: Version) -> None:
        """Note what was added, unless some of it changed meanwhile, or just before (see stat_index.py).

        The stamps of files that became blobs where they lie did change, which the index knows.
        """
        if before is None or after is None or not after.known or before.rest != after.rest:
            return
        item = {
            "schema": _SCHEMA,
            "fingerprint": after.fingerprint,
            "doubt": doubt(store),
            "id": str(made.ref),
            "digest": made.digest,
        }
        write_whole(self._file, json.dumps(item).encode())
