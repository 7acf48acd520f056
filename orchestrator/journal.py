"""The journal of a run: one fsynced line before each side effect, so that a successor knows what was begun.

Also owns who may touch a run: whoever holds the lock on its folder, and nobody else.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from orchestrator.errors import StoreError
from orchestrator.reference import RunId, parse_run_id

# How often a run that seems to be held is asked for again before it is left alone.
_TRIES = 5


class RunFolders(NamedTuple):
    """The project's folders of runs: `.mirage/runs/<id>/`, and a marker in `.mirage/open/` while one is open."""

    runs: Path
    open: Path

    def of(self, run_id: RunId) -> Path:
        """A run's own folder."""
        return self.runs / run_id

    def unfinished(self) -> list[RunId]:
        """The runs whose record is not sealed yet: alive, or left behind by a dead process."""
        try:
            names = sorted(os.listdir(self.open))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list the open runs in {self.open}: {error.strerror}") from error
        # a process that died while it wrote a marker left a file of another name
        return [parse_run_id(name) for name in names if not name.startswith(".")]


class Busy(Exception):
    """Another process holds the run."""


class Journal:
    """An open run, held by this process."""

    def __init__(self, folders: RunFolders, run_id: RunId, lock: BinaryIO) -> None:
        self._folders = folders
        self._run_id = run_id
        self._lock = lock
        self._file = (folders.of(run_id) / "journal").open("a+b", buffering=0)
        self._writing = threading.Lock()
        # When this process began the run, by a clock that does not jump; None where another one did.
        self.begun: float | None = None
        # A line that a dead process left torn must not swallow ours.
        self._torn = (
            self._file.tell() > 0 and os.pread(self._file.fileno(), 1, self._file.tell() - 1) != b"\n"
        )

    def write(self, event: str, **fields: Any) -> None:
        """Add a line; it is on disk when this returns. Raises StoreError."""
        line = json.dumps({"event": event, "time": time.time(), **fields}, sort_keys=True).encode() + b"\n"
        try:
            with self._writing:  # outputs are taken in a thread of their own
                view = memoryview(b"\n" + line if self._torn else line)
                self._torn = True
                while view:
                    view = view[self._file.write(view) :]
                self._torn = False
                os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write the run's journal: {error.strerror}",
                hint="free some space, then `mirage recover`",
            ) from error

    def close(self) -> None:
        """The record is sealed: nothing is left to recover."""
        self.write("closed")
        _unmark(self._folders.open / self._run_id)  # where the disk fails now, `mirage recover` removes it
        self.release()

    def release(self) -> None:
        """Let go of the run, open as it is."""
        self._file.close()
        self._lock.close()


def begin(folders: RunFolders, run_id: RunId, plan: bytes) -> Journal:
    """Open a new run: its folder with the plan in it, the marker, and the line `begun`, durable in that order.

    A process that dies before that line leaves something for ``forget``; after it, a run to recover.
    Raises StoreError, and leaves nothing of the run then.
    """
    folder = folders.of(run_id)
    with ExitStack() as undo:
        try:
            for parent in (folders.runs, folders.open):
                _make_durably(parent)
            folder.mkdir()
            undo.callback(_remove, folder)
            lock = undo.enter_context(_locked(folder))
            write_durably(folder / "plan.json", plan)
            undo.callback(_unmark, folders.open / run_id)
            write_durably(folders.open / run_id, b"")
            journal = Journal(folders, run_id, lock)
            undo.callback(journal.release)
            for parent in (folder, folders.runs, folders.open):
                sync_folder(parent)
            journal.write("begun")
            journal.begun = time.monotonic()
        except OSError as error:
            raise StoreError(
                f"cannot begin a run in {folder}: {error.strerror}",
                hint="is there space left, and is the folder yours?",
            ) from error
        undo.pop_all()
    return journal


def take_over(folders: RunFolders, run_id: RunId) -> Journal:
    """Hold a run that a dead process left. Raises Busy where its process, or another recoverer, is alive."""
    folder = folders.of(run_id)
    for _ in range(_TRIES):
        try:
            lock = _locked(folder)
            break
        except Busy:
            time.sleep(0.02)  # it may be held for a moment only, by ``is_held``
    else:
        lock = _locked(folder)
    try:
        return Journal(folders, run_id, lock)
    except BaseException:
        lock.close()
        raise


def forget(folders: RunFolders, run_id: RunId) -> None:
    """Remove what a process left that died before it had begun a run."""
    _remove(folders.of(run_id))
    (folders.open / run_id).unlink(missing_ok=True)


def is_held(folders: RunFolders, run_id: RunId) -> bool:
    """Whether a living process holds the run."""
    try:
        with (folders.of(run_id) / "lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
    except BlockingIOError:
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
        except (ValueError, RecursionError):
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
    except BaseException:
        handle.close()
        raise
    return handle


def _make_durably(folder: Path) -> None:
    if not folder.is_dir():
        _make_durably(folder.parent)
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file: a reader sees the old one, the new one, or none, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unmark(marker: Path) -> None:
    with suppress(
        OSError
    ):  # it is gone already; or the disk fails, and what went wrong first is what is told
        marker.unlink()


def _remove(folder: Path) -> None:
    import shutil  # with its five compressions: a question that only lists runs does without

    shutil.rmtree(folder, ignore_errors=True)
