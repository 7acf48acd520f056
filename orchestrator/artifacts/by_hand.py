"""Artifacts without a run: a file or folder of this machine becomes one, and one is copied out."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

from orchestrator import canonical
from orchestrator.artifacts import taking, tree, unchanged
from orchestrator.artifacts.stat_index import StatIndex
from orchestrator.artifacts.version import Manifest, Version, publish, read_verified
from orchestrator.digest import of_bytes
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store
from orchestrator.store.disk import write_all
from orchestrator.store.following import LARGE, copied
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
        self.files.settle()
        self.files.save()
        self._whole.save(self._store, before, unchanged.look(self._path, self.files), made)


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
            digest, size = intake.add(source.fileno(), status.st_size)
            after = os.fstat(source.fileno())
        if (size, after.st_size, after.st_mtime_ns) != (status.st_size, status.st_size, status.st_mtime_ns):
            raise ArtifactError(
                f"{path} changed while it was taken", hint="finish writing before it is added"
            )
        if memory is not None:
            memory.files.keep(name, status, digest)
    return tree.TreeEntry(name, "f", bool(status.st_mode & 0o111), status.st_size, digest)


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
        for entry in entries:
            place = part / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "d":
                place.mkdir(exist_ok=True)
            elif entry.kind == "l":
                place.symlink_to(entry.target)
            else:
                _copy(store, entry, place)
        (part if found.manifest.entry is None else part / found.manifest.entry).rename(target)
    except OSError as error:
        raise ArtifactError(f"{found.ref} cannot be copied to {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy(store: Store, entry: tree.TreeEntry, place: Path) -> None:
    assert entry.digest is not None
    with store.open(entry.digest) as source, place.open("xb+", buffering=0) as sink:
        size = os.fstat(source.fileno()).st_size
        if size < LARGE:
            data = source.read(size + 1)
            found = of_bytes(data)
            write_all(sink.fileno(), data)
        else:
            found = copied(source.fileno(), sink.fileno(), size)
    if found != entry.digest:
        raise StoreError(f"the store {store.location} holds damaged bytes for {entry.digest} ({entry.path})")
    place.chmod(0o755 if entry.executable else 0o644)
