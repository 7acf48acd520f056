"""The lock of a commit: which file it is, and all that it names, read from the snapshot and never from disk."""

from __future__ import annotations

import os

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import of_bytes
from orchestrator.locks import lock
from orchestrator.locks.pinned import Lock
from orchestrator.locks.source import LockSource
from orchestrator.settings import EnvironmentSettings
from orchestrator.source import beyond
from orchestrator.source.content import read_blob, read_blobs
from orchestrator.source.snapshot import Snapshot


def of_snapshot(taken: Snapshot, settings: EnvironmentSettings) -> Lock:
    """The lock that the settings mean. Raises LockError where there is none, or it cannot be read."""
    paths = [os.fsdecode(file.path) for file in taken.files]
    present = frozenset(paths)

    def read(path: str) -> bytes | None:
        if beyond.is_outside(path):
            return next(
                (
                    data
                    for file, data in read_blobs(beyond.files(taken, path))
                    if file.path == os.fsencode(path)
                ),
                None,
            )
        return read_blob(taken, os.fsencode(path)) if path in present else None

    def held(folder: str) -> str:
        below = os.fsencode(folder) + b"/"
        files = beyond.files(taken, folder) if beyond.is_outside(folder) else taken.files
        inside = [file for file in files if file.path.startswith(below)]
        listed: list[Json] = [
            [file.path[len(below) :].hex(), file.mode, file.oid, file.lfs] for file in inside
        ]
        return str(of_bytes(canonical.encode(listed))) if listed else ""

    path = lock.choose(paths, settings.lock)
    content = read_blob(taken, os.fsencode(path))
    return lock.read(LockSource(path, content, settings.groups, settings.unpinned, read, paths, held))
