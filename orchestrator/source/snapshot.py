"""The stage `snapshot`: the project at one commit, clean, or dirty and refused or made a commit of its own.

Owns the verdict; what differs, which files there are and what they hold are work_tree.py's, listing.py's and
content.py's parts.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import attributes, git, listing, work_tree
from orchestrator.source.checkout import Checkout, locate
from orchestrator.source.listing import SourceFile, Submodule
from orchestrator.source.work_tree import Change

__all__ = ["Snapshot", "SourceFile", "Submodule", "take"]


@dataclass(frozen=True)
class Snapshot:
    """The project at one commit. ``tree`` is the tree id of the project's own folder.

    ``base_commit`` is the commit that was checked out: another one than ``commit`` where ``dirty``.
    ``prefix`` is the project's path in its repository, empty at its root; ``commit_time`` in seconds
    since the epoch; ``lfs`` says that some file's content is in the clone's LFS store. ``held`` are blobs that were
    read already, by their git names.
    """

    folder: Path
    commit: str
    base_commit: str
    tree: str
    prefix: str
    commit_time: int
    branch: str | None
    remote: str | None
    dirty: bool
    shallow: bool
    files: tuple[SourceFile, ...]
    submodules: tuple[Submodule, ...]
    lfs: bool
    held: tuple[tuple[str, bytes], ...] = field(default=(), repr=False, compare=False)


def take(folder: Path, *, allow_dirty: bool, ahead: Collection[str] = ()) -> Snapshot:
    """The snapshot of the project in ``folder``.

    A dirty tree is refused with the list of its files, or, with ``allow_dirty``, becomes a commit of its own
    under `refs/mirage/snapshots/`: the same content on the same parent gives the same commit. ``ahead`` are files
    that will be read, where they are there: they come with what git is asked for anyway. Raises SourceError
    where there is no repository or no commit, and where git cannot give some content.
    """
    checkout = locate(folder.resolve())
    own = [f":(top,exclude,literal){checkout.below(each)}" for each in listing.OWN_FOLDERS]
    with ThreadPoolExecutor(1) as pool:
        # Beside each other: most often the tree is clean, and the commit's files are the answer.
        committed = pool.submit(listing.parts, checkout, checkout.tree)
        changed = work_tree.changes(checkout.folder, checkout.settings, own)
    if changed and not allow_dirty:
        above = checkout.below("")
        raise _refusal(checkout, [replace(each, path=each.path.removeprefix(above)) for each in changed])
    root, tree = work_tree.trees_of_work(checkout, changed) if changed else (None, checkout.tree)
    parts = listing.parts(checkout, tree) if changed else committed.result()
    inside = [change for part in parts for change in part.changed]
    if inside and not allow_dirty:
        raise _refusal(checkout, inside)
    if inside:
        raise SourceError(
            f"submodules have changes of their own, which a snapshot of their parent cannot hold:{_lines(inside)}",
            hint="commit them in the submodule, then run again",
        )
    commit = (
        work_tree.commit_of(checkout, root) if root is not None and tree != checkout.tree else checkout.head
    )
    soon = {os.fsencode(path) for path in ahead}
    wanted = [file.oid for file in parts[0].files if file.path in soon]
    stamp, filtered, held = attributes.stamp_and_filtered(checkout, commit, parts, wanted)
    parts = [attributes.with_pointers(part, commit) for part in parts] if filtered else parts
    files = tuple(file for part in parts for file in part.files)
    return Snapshot(
        folder=checkout.folder,
        commit=commit,
        base_commit=checkout.head,
        tree=tree,
        prefix=checkout.prefix,
        commit_time=stamp,
        branch=checkout.branch,
        remote=checkout.settings.remote,
        dirty=commit != checkout.head,
        shallow=checkout.shallow,
        files=files,
        submodules=tuple(module for part in parts for module in part.submodules),
        lfs=any(file.lfs for file in files),
        held=held,
    )


def _refusal(checkout: Checkout, changed: Sequence[Change]) -> SourceError:
    count = "1 file differs" if len(changed) == 1 else f"{len(changed)} files differ"
    note = ""
    if checkout.settings.inert:
        names = ", ".join(repr(name) for name in checkout.settings.inert)
        note = f"\n  (filters of the repository's own config are not run: {names})"
    return SourceError(
        f"the project is not as committed: {count} from it{_lines(changed)}{note}",
        hint="commit them (git add, git commit), ignore them (.gitignore), or run what is there: --snapshot",
    )


def _lines(changed: Sequence[Change]) -> str:
    return git.listed([f"{change.letters} {change.path!r}" for change in changed])
