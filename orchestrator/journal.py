"""The journal of a run: one fsynced line before each side effect, so that a successor knows what was begun.

Also owns who may touch a run: whoever holds the lock on its folder, and nobody else.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.errors import StoreError
from orchestrator.reference import RunId, parse_run_id


@dataclass(frozen=True)
class RunFolders:
    """The project's folders of runs: `.mirage/runs/<id>/`, and a marker in `.mirage/open/` while one is open."""

    runs: Path
    open: Path

    def of(self, run_id: RunId) -> Path:
        """A run's own folder."""
        return self.runs / run_id

    def unfinished(self) -> list[RunId]:
        """The runs whose record is not sealed yet: alive, or left behind by a dead process."""
        try:
            return [parse_run_id(name) for name in sorted(os.listdir(self.open))]
        except FileNotFoundError:
            return []


class Busy(Exception):
    """Another process holds the run."""


class Journal:
    """An open run, held by this process."""

    def __init__(self, folders: RunFolders, run_id: RunId, lock: BinaryIO) -> None:
        self._folders = folders
        self._run_id = run_id
        self._lock = lock
        self._file = (folders.of(run_id) / "journal").open("ab", buffering=0)

    def write(self, event: str, **fields: Any) -> None:
        """Add a line; it is on disk when this returns. Raises StoreError."""
        line = json.dumps({"event": event, "time": time.time(), **fields}, sort_keys=True)
        try:
            self._file.write(line.encode() + b"\n")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write the run's journal: {error.strerror}",
                hint="free some space, then `mirage recover`",
            ) from error

    def close(self) -> None:
        """The record is sealed: nothing is left to recover."""
        self.write("closed")
        (self._folders.open / self._run_id).unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the run, open as it is."""
        self._file.close()
        self._lock.close()


def begin(folders: RunFolders, run_id: RunId, plan: bytes) -> Journal:
    """Open a new run: its folder with the plan in it, then the marker, each durable in that order."""
    folder = folders.of(run_id)
    try:
        folders.open.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True)
        lock = _locked(folder)
        write_durably(folder / "plan.json", plan)
        journal = Journal(folders, run_id, lock)
        journal.write("begun")
        write_durably(folders.open / run_id, b"")
        for parent in (folder, folders.runs, folders.open):
            sync_folder(parent)
    except OSError as error:
        raise StoreError(
            f"cannot begin a run in {folder}: {error.strerror}", hint="is there space left?"
        ) from error
    return journal


def take_over(folders: RunFolders, run_id: RunId) -> Journal:
    """Hold a run that a dead process left. Raises Busy where its process, or another recoverer, is alive."""
    return Journal(folders, run_id, _locked(folders.of(run_id)))


def is_held(folders: RunFolders, run_id: RunId) -> bool:
    """Whether a living process holds the run."""
    try:
        _locked(folders.of(run_id)).close()
    except Busy:
        return True
    except OSError:
        return False
    return False


def read(folders: RunFolders, run_id: RunId) -> Iterator[dict[str, Any]]:
    """The journal's lines; a torn last line (the process died in it) is passed over."""
    try:
        data = (folders.of(run_id) / "journal").read_bytes()
    except FileNotFoundError:
        return
    for line in data.splitlines():
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):
            yield item


def _locked(folder: Path) -> BinaryIO:
    handle = (folder / "lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise Busy(folder.name) from error
    return handle


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file: a reader sees the old one, the new one, or none, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as sink:
        sink.write(data)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
