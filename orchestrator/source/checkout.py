"""Where a project is in its repository and what is checked out there, or why there is nothing to run.

Looks at no file: what differs from the commit is work_tree.py's part.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git


@dataclass(frozen=True)
class Checkout:
    """Where the project is in its repository, and what is checked out there."""

    folder: Path
    top: Path
    common: Path
    head: str
    tree: str
    branch: str | None
    shallow: bool
    settings: git.Settings

    @property
    def prefix(self) -> str:
        """The project's path below the repository's root, with `/`."""
        inside = self.folder.relative_to(self.top).as_posix()
        return "" if inside == "." else inside

    def below(self, path: str) -> str:
        """A path of the project as one of the repository."""
        return f"{self.prefix}/{path}" if self.prefix else path


def locate(folder: Path) -> Checkout:
    """The checkout that a project's folder is in.

    Raises SourceError where there is no repository, no work tree, or no commit with the folder in it.
    """
    words = ("--is-inside-work-tree", "--is-shallow-repository", "--show-cdup", "HEAD^{commit}", "HEAD:./")
    with ThreadPoolExecutor(1) as pool:  # beside each other
        settings = pool.submit(git.settings, folder)
        done = git.run(folder, "rev-parse", *words, "--git-common-dir", "--symbolic-full-name", "HEAD")
    if done.code != 0:
        raise _no_commit(folder, done.complaint)
    lines = os.fsdecode(done.stdout).split("\n")
    inside, shallow, up, head, tree = lines[:5]
    if inside != "true":
        raise SourceError(f"{folder} is not in a work tree", hint="a bare repository cannot be run: clone it")
    # Where there is a `refs/heads/HEAD` or `refs/tags/HEAD`, git prints nothing for the last word.
    if b"error: refname 'HEAD' is ambiguous" in done.stderr:
        asked = git.run(folder, "symbolic-ref", "--quiet", "HEAD")
        lines[-1:] = [os.fsdecode(asked.stdout.strip()) or "HEAD", ""]
    # The common folder may have newlines in its name; the branch, which is last, may not.
    common, symbolic = "\n".join(lines[5:-2]), lines[-2]
    branch = symbolic.removeprefix("refs/heads/") if symbolic.startswith("refs/heads/") else None
    checkout = Checkout(
        folder=folder,
        top=Path(os.path.normpath(folder / up)),
        common=Path(os.path.normpath(folder / common)),
        head=head,
        tree=tree,
        branch=None if branch is None else git.printable(os.fsencode(branch)),
        shallow=shallow == "true",
        settings=settings.result(),
    )
    if git.printable(os.fsencode(checkout.prefix)) != checkout.prefix:
        raise SourceError(
            f"the project's folder has a name that is not UTF-8: {checkout.prefix!r}",
            hint="rename it: the name is part of the image's key",
        )
    return checkout


def _no_commit(folder: Path, complaint: str) -> SourceError:
    """Why there is nothing to run: no repository, no commit, or a project that is not in the commit."""
    if git.run(folder, "rev-parse", "--git-dir").code != 0:
        if "not a git repository" in complaint:
            return SourceError(
                f"{folder} is not in a git repository",
                hint="a run is made from a commit: git init && git add . && git commit -m Begin",
            )
        foreign = "dubious ownership" in complaint  # gits older than 2.38 do not take `-c safe.directory`
        return SourceError(
            f"git cannot read the repository of {folder}: {complaint}",
            hint=f"git config --global --add safe.directory {folder}" if foreign else None,
        )
    if git.run(folder, "rev-parse", "--is-inside-work-tree").stdout.strip() != b"true":
        return SourceError(
            f"{folder} is not in a work tree", hint="a bare repository cannot be run: clone it"
        )
    if git.run(folder, "rev-parse", "--verify", "--quiet", "HEAD^{tree}").code != 0:
        if git.run(folder, "rev-parse", "--verify", "--quiet", "HEAD").code == 0:
            return SourceError(
                f"the commit that is checked out in {folder} cannot be read: {complaint}", hint="git fsck"
            )
        return SourceError(
            f"the repository of {folder} has no commit yet",
            hint="a run is made from a commit: git add . && git commit -m Begin",
        )
    return SourceError(
        f"the folder {folder} is not in the commit that is checked out",
        hint="commit the project first: git add . && git commit",
    )
