"""Artifacts without a run: a file or folder of this machine becomes one."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

from orchestrator import canonical
from orchestrator.artifacts import taking, tree, unchanged
from orchestrator.artifacts.stat_index import StatIndex
from orchestrator.artifacts.version import Manifest, Version, publish
from orchestrator.errors import ArtifactError
from orchestrator.ports import Store
from orchestrator.store.sessions import StoreBusy, writing


def add(
    store: Store,
    path: Path,
    *,
    kind: str,
    name: str,
    version: str | None,
    description: str = "",
    link: bool = False,
    cache: Path | None = None,
) -> Version:
    """Publish a file, or everything below a folder, under ``version`` or the next free `vN`.

    ``link`` lets the store keep the files as they lie, read-only from then on. ``cache`` is a folder for what is known
    of them by stat. Where a collection takes away what was about to be used, it is done again. Raises ArtifactError
    for what cannot be part of an artifact, and where a custom version is taken.
    """
    memory = None if cache is None else _Memory(cache, path, store)
    while True:
        try:
            with writing(store) as kept:
                before, same = (None, None) if memory is None else memory.find(kept)
                manifest = (
                    _manifest_of(*_take(kept, path, memory, link), kept, kind, name, description)
                    if same is None
                    else replace(same.manifest, kind=kind, name=name, metadata=_metadata(description))
                )
                made = publish(kept, manifest, version, None)
        except StoreBusy:
            continue
        if memory is not None and same is None:
            memory.save(before, made)
        return made


class _Memory:
    """What this machine knows of a folder as a whole, and of files one by one."""

    def __init__(self, cache: Path, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._whole = unchanged.Remembered(cache, path, store)
        self.files = StatIndex(cache, path)

    def find(self, store: Store) -> tuple[unchanged.Look | None, Version | None]:
        """The folder as it is, and the version that has just these files."""
        now = unchanged.look(self._path)
        return now, self._whole.find(store, now)

    def save(self, before: unchanged.Look | None, made: Version) -> None:
        """Remember what was added."""
        after = unchanged.look(self._path, self.files)
        if after is None:  # a file
            self.files.settle()
        self.files.save()
        self._whole.save(self._store, before, after, made)


def _manifest_of(
    entries: tuple[tree.TreeEntry, ...],
    entry: str | None,
    store: Store,
    kind: str,
    name: str,
    description: str,
) -> Manifest:
    files = [each for each in entries if each.kind == "f"]
    return Manifest(
        kind=kind,
        name=name,
        format="directory" if entry is None else "file",
        entry=entry,
        tree=store.put(tree.encode(entries)),
        size=sum(each.size for each in files),
        files=len(files),
        metadata=_metadata(description),
    )


def _metadata(description: str) -> str:
    return canonical.encode({"description": description} if description else {}).decode()


def _take(
    store: Store, path: Path, memory: _Memory | None, link: bool
) -> tuple[tuple[tree.TreeEntry, ...], str | None]:
    try:
        if not path.is_dir():
            return (_file(store, path, memory, link),), path.name
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            known = None if memory is None else memory.files
            return taking.collect(store, folder, known=known, link=link), None
        finally:
            os.close(folder)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _file(store: Store, path: Path, memory: _Memory | None, link: bool) -> tree.TreeEntry:
    name, status = tree.check_path(path.name), os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path} is neither a file nor a folder")
    digest = None if memory is None else memory.files.find(name, status)
    if digest is None or not store.has(digest):
        with path.open("rb", buffering=0) as source, store.intake(link=link) as intake:
            status = os.fstat(source.fileno())
            try:
                digest, size = intake.add(source.fileno(), status.st_size)
            except ArtifactError as error:
                raise ArtifactError(f"{path}: {error.message}", hint=error.hint) from error
            after = os.fstat(source.fileno())
        if memory is not None:
            memory.files.sealed(intake.sealed)
        if (size, after.st_size, after.st_mtime_ns) != (status.st_size, status.st_size, status.st_mtime_ns):
            raise ArtifactError(
                f"{path} changed while it was taken", hint="finish writing before it is added"
            )
        if memory is not None:
            memory.files.keep(name, status, digest)
    return tree.TreeEntry(name, "f", bool(status.st_mode & 0o111), status.st_size, digest)
