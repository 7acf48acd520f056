"""Files of the commit that lie outside of the project's folder, where something of the project names them.

A repository may hold several projects and what they share (`../lib`). Only what is as committed is taken: a snapshot of
uncommitted work holds the project's own folder alone.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import attributes, git, listing, objects, work_tree
from orchestrator.source.listing import Part
from orchestrator.source.snapshot import Snapshot, SourceFile


def is_outside(path: str) -> bool:
    """Whether a normal path from the project leads out of its folder."""
    return path == ".." or path.startswith("../")


def files(taken: Snapshot, path: str) -> tuple[SourceFile, ...]:
    """The file at ``path``, or all below it, their own paths beginning with it; none outside of the repository.

    Raises SourceError where they are not as committed, or have a submodule among them.
    """
    inside = posixpath.normpath(posixpath.join(taken.prefix, path))
    if is_outside(inside) or posixpath.isabs(inside):
        return ()
    top = taken.folder.parents[taken.prefix.count("/")] if taken.prefix else taken.folder
    words = ("ls-tree", "-r", "-z", "-l", "--full-tree", taken.commit)
    out = git.ask(top, *words, *(() if inside == "." else ("--", inside)))
    found = []
    for mode, kind, oid, size, name in listing.entries(out):
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
            f"{path}, which the lock names outside of the project, is not as committed:{git.listed(named)}",
            hint="commit it; a snapshot holds the project's own folder alone",
        )
