"""The lock of a commit: which file it is, and all that it names, read from the snapshot and never from disk."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable

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

    if beyond.is_outside(posixpath.normpath(settings.lock)):
        return lock.read(_of_repository(taken, settings, read, held))
    path = lock.choose(paths, settings.lock)
    content = read_blob(taken, os.fsencode(path))
    return lock.read(LockSource(path, content, settings.groups, settings.unpinned, read, paths, held))


def _of_repository(
    taken: Snapshot,
    settings: EnvironmentSettings,
    read: Callable[[str], bytes | None],
    held: Callable[[str], str],
) -> LockSource:
    """A lock that lies outside of the project, as that of a workspace which the project is a member of."""
    path = posixpath.normpath(settings.lock)
    content = read(path)
    if content is None:
        lock.choose((), path)  # it is not there: told as any other
        raise AssertionError("a lock that is not there was chosen")
    folder = posixpath.dirname(path)
    place = beyond.place_of(taken, folder) or "."
    return LockSource(
        path,
        content,
        settings.groups,
        settings.unpinned,
        read,
        beyond.names(taken, folder, "pyproject.toml") if posixpath.basename(path) == "uv.lock" else (),
        held,
        posixpath.relpath(f"/{taken.prefix}", f"/{place}"),
    )
