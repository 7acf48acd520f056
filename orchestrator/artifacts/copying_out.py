"""An artifact copied out of the store: the caller's own files, every byte verified; of many, two processes copy."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

from orchestrator.artifacts import tree
from orchestrator.artifacts.version import Version, read_verified
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store
from orchestrator.store.disk import write_all
from orchestrator.store.following import LARGE, Unreadable, copied

# Files from which on a second process is worth its start.
_MANY = 100


def default_target(found: Version) -> Path:
    """Where an artifact goes that nobody gave a place: its file's own name, in this folder, and never a hidden one.

    The name is the workflow's: `.git/hooks/pre-commit` or `.bashrc` would be run by somebody else later.
    """
    name = os.path.basename(found.manifest.entry or "")
    if not name or name.startswith(".") or not name.isprintable():
        name = f"{found.ref.name}-{found.ref.version}"
    return Path(name)


def copy_out(store: Store, found: Version, target: Path) -> None:
    """Copy an artifact's files to ``target``, which must not exist: the caller's own, writable, every byte verified.

    A single file keeps its name only through ``target``'s. Raises StoreError where the store's bytes are damaged;
    ``target`` is then not there.
    """
    if os.path.lexists(target):
        raise ArtifactError(f"{target} exists already", hint="name another place with -o")
    entries = tree.parse(read_verified(store, found.manifest.tree))
    files = {entry.path for entry in entries if entry.kind == "f"}
    if found.manifest.entry is not None and found.manifest.entry not in files:
        raise StoreError(f"{found.ref} names the file {found.manifest.entry!r}, which it does not have")
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        store.fetch(
            entry.digest for entry in entries if entry.digest is not None
        )  # all at once, not one by one
        _fill(store, part, entries)
        (part if found.manifest.entry is None else part / found.manifest.entry).rename(target)
    except OSError as error:
        raise ArtifactError(f"{found.ref} cannot be copied to {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(store: Store, folder: Path, entries: tuple[tree.TreeEntry, ...]) -> None:
    """Make all that a tree names in an empty folder of this process's own."""
    made = {""}
    for entry in entries:
        above = entry.path if entry.kind == "d" else entry.path.rpartition("/")[0]
        if above not in made:
            (folder / above).mkdir(parents=True, exist_ok=True)
            made.add(above)
        if entry.kind == "l":
            (folder / entry.path).symlink_to(entry.target)
    files = [entry for entry in entries if entry.kind == "f"]
    helper = _Helper(store, folder, files)
    try:
        at = _copy_until_met(store, folder, files)
        if at < len(files) and not helper.finished():
            for entry in files[at:]:  # it died, or was refused what it wanted: it is done here, or told
                (folder / entry.path).unlink(missing_ok=True)
                _copy(store, folder, entry)
    finally:
        helper.end()


class _Helper:
    """A process that copies files from the last one on: who is first to make a file copies it.

    There is none for few files, nor where other threads may hold a lock at this moment.
    """

    def __init__(self, store: Store, folder: Path, files: list[tree.TreeEntry]) -> None:
        self._pid = 0
        if len(files) < _MANY or threading.active_count() > 1:
            return
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                _copy_until_met(store, folder, files[::-1])
                code = 0
            finally:  # nothing of the parent's is to be run again here: no handler, no buffer
                os._exit(code)

    def finished(self) -> bool:
        """Wait for its end; whether all that it made is whole."""
        pid, self._pid = self._pid, 0
        return pid == 0 or os.waitpid(pid, 0)[1] == 0

    def end(self) -> None:
        """End it where it still works: what it makes is not wanted any more."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self.finished()


def _copy_until_met(store: Store, folder: Path, files: list[tree.TreeEntry]) -> int:
    """Copy files in their order up to one that is there already; gives its number. Raises as ``copy_out``."""
    for number, entry in enumerate(files):
        try:
            _copy(store, folder, entry)
        except FileExistsError:
            return number
    return len(files)


def _copy(store: Store, folder: Path, entry: tree.TreeEntry) -> None:
    """Make one file. Raises FileExistsError where somebody has, StoreError where its bytes are damaged."""
    assert entry.digest is not None
    with store.open(entry.digest) as source:
        size = os.fstat(source.fileno()).st_size
        sink = os.open(f"{folder}/{entry.path}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if size < LARGE:
                data = source.read(size + 1)
                found = of_bytes(data)
                write_all(sink, data)
            else:
                found = _copied(store, entry.digest, source.fileno(), sink, size)
            os.fchmod(sink, 0o755 if entry.executable else 0o644)
        finally:
            os.close(sink)
    if found != entry.digest:
        raise StoreError(f"the store {store.location} holds damaged bytes for {entry.digest} ({entry.path})")


def _copied(store: Store, digest: Digest, source: int, sink: int, size: int) -> Digest:
    try:
        return copied(source, sink, size)
    except Unreadable as error:
        raise StoreError(f"the store {store.location} cannot give all of {digest}: {error}") from error
