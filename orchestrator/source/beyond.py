"""Files of the commit that lie outside of the project's folder, where something of the project names them.

A repository may hold several projects and what they share (`../lib`). Only what is as committed is taken: a snapshot of
uncommitted work holds the project's own folder alone.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import attributes, git, listing, objects, work_tree
from orchestrator.source.listing import Part
from orchestrator.source.snapshot import Snapshot, SourceFile


def is_outside(path: str) -> bool:
    """Whether a normal path from the project leads out of its folder."""
    return path == ".." or path.startswith("../")


def place_of(taken: Snapshot, path: str) -> str | None:
    """A path from the project as one from the repository's root (`.`); None for what lies outside of the repository."""
    inside = posixpath.normpath(posixpath.join(taken.prefix, path))
    return None if is_outside(inside) or posixpath.isabs(inside) else inside


def names(taken: Snapshot, folder: str, name: str) -> list[str]:
    """The paths, beginning with ``folder``, of all files of that name below it in the commit, changed or not."""
    inside = place_of(taken, folder)
    if inside is None:
        return []
    wanted = os.fsencode(name)
    found = _listed(taken, inside)
    paths = (path for _, kind, _, _, path in found if kind == b"blob" and path.rpartition(b"/")[2] == wanted)
    start = 0 if inside == "." else len(os.fsencode(inside))
    return [os.fsdecode(_named(folder, path[start:])) for path in paths]


def files(taken: Snapshot, path: str) -> tuple[SourceFile, ...]:
    """The file at ``path``, or all below it, their own paths beginning with it; none outside of the repository.

    Raises SourceError where they are not as committed, or have a submodule among them.
    """
    inside = place_of(taken, path)
    if inside is None:
        return ()
    top = _top(taken)
    found = []
    for mode, kind, oid, size, name in _listed(taken, inside):
        if kind == b"commit":
            raise SourceError(
                f"{path} has a submodule in it, {git.printable(name)}, and lies outside of the project",
                hint="only submodules below the project's own folder are taken",
            )
        if not size.isdigit():
            raise objects.absent(name, oid)
        found.append(SourceFile(name, mode, oid, int(size), top))
    if not found:
        return ()
    _check_committed(top, inside, path)
    part = attributes.with_pointers(Part(top, taken.commit, b"", tuple(found)), taken.commit)
    start = 0 if inside == "." else len(os.fsencode(inside))
    return tuple(replace(file, path=_named(path, file.path[start:])) for file in part.files)


def _top(taken: Snapshot) -> Path:
    return taken.folder.parents[taken.prefix.count("/")] if taken.prefix else taken.folder


def _listed(taken: Snapshot, inside: str) -> Iterator[tuple[str, bytes, str, bytes, bytes]]:
    words = ("ls-tree", "-r", "-z", "-l", "--full-tree", taken.commit)
    return listing.entries(git.ask(_top(taken), *words, *(() if inside == "." else ("--", inside))))


def _named(path: str, below: bytes) -> bytes:
    return b"/".join(filter(None, (os.fsencode(path), below.lstrip(b"/"))))


def _check_committed(top: Path, inside: str, path: str) -> None:
    place = top / inside
    folder = place if place.is_dir() else place.parent
    changed = work_tree.changes(folder, git.settings(folder), ()) if folder.is_dir() else ()
    here = [
        each for each in changed if inside == "." or each.path == inside or each.path.startswith(f"{inside}/")
    ]
    if here or not place.exists():
        named = [f"{each.letters} {each.path!r}" for each in here] or [f"D {inside!r}"]
        raise SourceError(
            f"{path}, outside of the project and part of its environment, is not as committed:{git.listed(named)}",
            hint="commit it; a snapshot holds the project's own folder alone",
        )
