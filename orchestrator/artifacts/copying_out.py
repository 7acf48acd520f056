"""An artifact copied out of the store: the caller's own files, every byte verified; of many, two processes copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from orchestrator.artifacts import tree
from orchestrator.artifacts.version import Version, read_verified
from orchestrator.digest import Digest
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store
from orchestrator.store.following import LARGE, Unreadable, copied
from orchestrator.store.helping import Copier, Together


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

    A single file keeps its name only through ``target``'s. Raises StoreError where the store's bytes are damaged,
    ArtifactError where they cannot be written; ``target`` is then not there.
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
    copies = _Copies(store, folder)
    try:
        for entry in entries:
            above = entry.path if entry.kind == "d" else entry.path.rpartition("/")[0]
            if above not in made:
                (folder / above).mkdir(parents=True, exist_ok=True)
                made.add(above)
            if entry.kind == "l":
                (folder / entry.path).symlink_to(entry.target)
            elif entry.kind == "f":
                copies.add(entry)
        copies.finish()
    finally:
        copies.close()


class _File:
    """A file that is being copied: open in the store, and where it goes."""

    __slots__ = ("descriptors", "entry", "size")

    def __init__(self, entry: tree.TreeEntry, source: int, sink: int) -> None:
        self.entry = entry
        self.descriptors = (source, sink)
        self.size = os.fstat(source).st_size


class _Copies:
    """The files of one artifact: large ones one by one, small ones together with a helper."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._together: Together[_File, Digest] = Together(_copier, self._copy)
        self._open: set[int] = set()

    def add(self, entry: tree.TreeEntry) -> None:
        """Make one file; it is whole when all are finished. Raises OSError, and StoreError."""
        assert entry.digest is not None
        with self._store.open(entry.digest) as opened:
            source = os.dup(opened.fileno())
        self._open.add(source)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            sink = os.open(f"{self._folder}/{entry.path}", flags, 0o600)
        except FileExistsError as error:
            raise ArtifactError(
                f"{entry.path!r} is there already: two names of the artifact are one in {self._folder.parent}",
                hint="copy it to a file system that tells upper and lower case apart",
            ) from error
        self._open.add(sink)
        file = _File(entry, source, sink)
        if file.size < LARGE:
            self._together.add(file)
        else:
            self._copy(file, None)

    def finish(self) -> None:
        """Copy what waits. Raises as ``add``."""
        self._together.finish()

    def close(self) -> None:
        """Close all that is open."""
        self._together.close()
        for descriptor in self._open:
            os.close(descriptor)

    def _copy(self, file: _File, found: Digest | None) -> None:
        entry, (source, sink) = file.entry, file.descriptors
        try:
            found = found or copied(source, sink, file.size)
        except Unreadable as error:
            raise StoreError(
                f"the store {self._store.location} cannot give all of {entry.digest}: {error}"
            ) from error
        if found != entry.digest:
            raise StoreError(
                f"the store {self._store.location} holds damaged bytes for {entry.digest} ({entry.path})"
            )
        os.fchmod(sink, 0o755 if entry.executable else 0o644)
        for descriptor in file.descriptors:
            self._open.discard(descriptor)
            os.close(descriptor)


def _copier() -> Copier | None:
    try:
        return Copier()
    except OSError:  # no memory, too many processes: then it takes longer
        return None
