"""What git knows of commits beside the one that is checked out: which lie between two, and which holds a tree.

Only what this clone has; every answer is bounded. Looks at no file's content.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from orchestrator.source import git

_RECENT = 2000  # commits that are looked at for a tree


@dataclass(frozen=True)
class Commit:
    """A commit and the first line of its message."""

    id: str
    subject: str


@dataclass(frozen=True)
class FileChange:
    """A file that differs between two trees: its blobs, None where it is not in that tree."""

    path: str
    before: str | None
    after: str | None


def has(folder: Path, name: str, kind: str) -> bool:
    """Whether the clone has an object of that kind."""
    return git.run(folder, "cat-file", "-e", f"{name}^{{{kind}}}").code == 0


def between(folder: Path, left: str, right: str, limit: int) -> tuple[list[Commit], list[Commit]]:
    """The commits that only ``left`` has, and those that only ``right`` has, newest first, ``limit`` of each at most."""
    return _only(folder, left, right, limit), _only(folder, right, left, limit)


def _only(folder: Path, wanted: str, without: str, limit: int) -> list[Commit]:
    # each is two lines, `commit <id>` and the format's (gits older than 2.33 cannot leave the first out)
    words = ("rev-list", f"--max-count={limit}", "--format=%s", wanted, f"^{without}")
    lines = git.ask(folder, *words).decode("utf-8", "backslashreplace").split("\n")
    return [
        Commit(head.removeprefix("commit "), subject)
        for head, subject in zip(lines[0::2], lines[1::2], strict=False)
    ]


def changed_files(folder: Path, left: str, right: str) -> list[FileChange]:
    """The files that differ between two trees, by path."""
    out = git.ask(folder, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", left, right)
    fields = out.split(b"\0")
    found = []
    for head, path in zip(fields[0::2], fields[1::2], strict=False):
        # `:mode mode blob blob status`, git-diff(1), "RAW OUTPUT FORMAT"
        _, _, before, after, _ = head.decode().split(" ")
        found.append(FileChange(git.printable(path), _blob(before), _blob(after)))
    return found


def _blob(oid: str) -> str | None:
    return oid if oid.strip("0") else None


def commits_with_trees(folder: Path, prefix: str, trees: Collection[str]) -> dict[str, str]:
    """For each tree of a project's folder the oldest commit that holds it there.

    Looks at the newest commits of all branches, tags and remotes; a snapshot's own commit is on none of them.
    """
    listed = git.run(
        folder, "rev-list", f"--max-count={_RECENT}", "--branches", "--tags", "--remotes", "HEAD"
    )
    commits = listed.stdout.decode().split()
    if listed.code != 0 or not commits or "\n" in prefix:
        return {}
    asked = "".join(f"{commit}:{prefix}\n" for commit in commits)
    done = git.run(folder, "cat-file", "--batch-check=%(objectname)", stdin=os.fsencode(asked))
    found: dict[str, str] = {}
    for commit, tree in zip(commits, done.stdout.decode("utf-8", "replace").splitlines(), strict=False):
        if tree in trees:
            found[tree] = commit  # the last one is the oldest
    return found
