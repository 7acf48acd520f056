"""Artifacts without a run: a file or folder of this machine becomes one, and one is copied out."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from orchestrator.artifacts import tree
from orchestrator.artifacts.version import Manifest, Version, publish, read_verified
from orchestrator.digest import CHUNK, of_hasher
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store


def add(store: Store, path: Path, *, kind: str, name: str, version: str | None) -> Version:
    """Publish a file, or everything below a folder, under ``version`` or the next free `vN`.

    Raises ArtifactError for what cannot be part of an artifact, and where a custom version is taken.
    """
    try:
        if path.is_dir():
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                entries = tree.collect(store, folder)
            finally:
                os.close(folder)
            entry = None
        else:
            entries = (_file(store, path),)
            entry = path.name
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    files = [each for each in entries if each.kind == "f"]
    manifest = Manifest(
        kind=kind,
        name=name,
        format="directory" if entry is None else "file",
        entry=entry,
        tree=store.put(tree.encode(entries)),
        size=sum(each.size for each in files),
        files=len(files),
        metadata="{}",
    )
    return publish(store, manifest, version, None)


def _file(store: Store, path: Path) -> tree.TreeEntry:
    with path.open("rb") as source, store.writer() as writer:
        while piece := source.read(CHUNK):
            writer.write(piece)
        digest, size = writer.commit()
        executable = bool(os.fstat(source.fileno()).st_mode & 0o111)
    return tree.TreeEntry(tree.check_path(path.name), "f", executable, size, digest)


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
    hasher = hashlib.sha256()
    with store.open(entry.digest) as source, place.open("xb") as sink:
        while piece := source.read(CHUNK):
            hasher.update(piece)
            sink.write(piece)
    if of_hasher(hasher) != entry.digest:
        raise StoreError(f"the store {store.location} holds damaged bytes for {entry.digest} ({entry.path})")
    place.chmod(0o755 if entry.executable else 0o644)
