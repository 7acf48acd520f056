"""Uncommitted work: what differs from the commit in a folder, and the tree and commit that hold it.

Whether a dirty tree may be run is snapshot.py's question.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git, objects
from orchestrator.source.checkout import Checkout

_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Mirage"), ("EMAIL", "mirage@localhost"))
}


@dataclass(frozen=True)
class Change:
    """One line of `git status -z --porcelain=v2`.

    ``letters`` as in the short format; ``path`` from the repository's root; ``staged`` is the index's
    `mode oid`, None where the index has no single entry.
    """

    letters: str
    path: str
    staged: str | None = None

    @property
    def unmerged(self) -> bool:
        """In conflict: git-status(1) lists these letters."""
        return "U" in self.letters or self.letters in ("DD", "AA")


def changes(folder: Path, settings: git.Settings, excluded: Sequence[str]) -> tuple[Change, ...]:
    """What differs from the commit in a folder: staged or not, untracked files too.

    A submodule differs here only by its commit: `git status` would start a git in each whose work tree it looks
    into, and that one's config counts there. listing.py asks each of them for itself.
    """
    words = ("status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=all")
    out = git.ask(
        folder,
        *words,
        "--ignore-submodules=dirty",
        "--",
        ".",
        *excluded,
        settings=settings.overrides,
    )
    found: list[Change] = []
    for line in filter(None, out.split(b"\0")):
        kind = line[:1]
        if kind == b"?":
            found.append(Change("??", os.fsdecode(line[2:])))
        elif kind in b"1u":
            # `1 XY sub mH mI mW hH hI path`; `u XY sub m1 m2 m3 mW h1 h2 h3 path`
            fields = line.split(b" ", 8 if kind == b"1" else 10)
            mode, oid = fields[4].decode(), fields[7].decode()
            staged = f"{mode} {oid}" if kind == b"1" and int(mode, 8) else None
            found.append(Change(fields[1].decode().replace(".", " "), os.fsdecode(fields[-1]), staged))
    return tuple(found)


def trees_of_work(checkout: Checkout, changed: Sequence[Change]) -> tuple[str, str]:
    """HEAD's tree with the changed files as they are on disk, and the project's folder in it.

    Written from an index of our own. It begins as HEAD, not as a copy of the user's: what is staged or in
    conflict elsewhere in the repository has no part in it, and no file is taken as unchanged by its times.
    """
    _refuse_what_cannot_be_held(checkout, changed)
    gone: list[str] = []
    seeded: list[str] = []
    present: list[str] = []
    for change in changed:
        there = os.path.lexists(checkout.top / change.path) if change.unmerged else change.letters[1] != "D"
        if there and not (change.letters[0] == "D" and change.letters[1] == " "):
            present.append(change.path)
            if change.staged is not None:  # a mode that is only in the index: `git update-index --chmod`
                seeded.append(f"{change.staged}\t{change.path}")
        else:
            gone.append(f"0 {'0' * len(checkout.head)}\t{change.path}")
    import tempfile  # most trees are clean

    with tempfile.TemporaryDirectory(prefix="mirage-index-") as name:

        def ask(*words: str, given: Sequence[str] = ()) -> str:
            stdin = os.fsencode("".join(f"{each}\0" for each in given))
            env = {"GIT_INDEX_FILE": str(Path(name) / "index")}
            return git.ask(
                checkout.top, *words, settings=checkout.settings.overrides, env=env, stdin=stdin
            ).decode()

        ask("read-tree", checkout.head)
        update = ("update-index", "--add", "--remove", "--replace", "-z")
        if gone or seeded:
            ask(*update, "--index-info", given=gone + seeded)
        if present:
            ask(*update, "--stdin", given=present)
        root = ask("write-tree").strip()
    if not checkout.prefix:
        return root, root
    return root, git.ask(checkout.top, "rev-parse", "--verify", f"{root}:{checkout.prefix}").decode().strip()


def _refuse_what_cannot_be_held(checkout: Checkout, changed: Sequence[Change]) -> None:
    for change in changed:
        if change.letters == "??" and change.path.endswith("/"):
            raise SourceError(
                f"{change.path!r} is a git repository of its own in the project, and no submodule of it",
                hint="make it one (git submodule add), ignore it (.gitignore) or take its .git away",
            )
    if not checkout.settings.inert:
        return
    stdin = os.fsencode("".join(f"{change.path}\0" for change in changed))
    fields = git.ask(checkout.top, "check-attr", "-z", "--stdin", "filter", stdin=stdin).split(b"\0")
    for path, value in zip(fields[0::3], fields[2::3], strict=False):
        if os.fsdecode(value) in checkout.settings.inert:
            raise SourceError(
                f"{git.printable(path)} goes through the filter {git.printable(value)!r}, which the repository's "
                "own config defines: Mirage does not run it, and would take the file unfiltered",
                hint="commit the file, or define the filter in your own config (git config --global)",
            )


def commit_of(checkout: Checkout, root: str) -> str:
    """A commit on HEAD whose tree is ``root`` and that is the same whenever the content is."""
    # `@`: git takes a small bare number for a year or a day (Documentation/date-formats.txt).
    content = git.ask(checkout.folder, "cat-file", "commit", checkout.head)
    date = f"@{objects.commit_time(content, checkout.head)} +0000"
    env = {**_AUTHOR, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    words = ("commit-tree", root, "-p", checkout.head, "-m", "Mirage snapshot of uncommitted work")
    commit = git.ask(checkout.folder, *words, env=env).decode().strip()
    name = f"refs/mirage/snapshots/{commit}"
    git.ask(checkout.folder, "update-ref", name, commit, settings=checkout.settings.overrides)
    return commit
