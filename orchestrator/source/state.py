"""What of a project's own state on this machine came with its repository: somebody else's caches, runs and stores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git

# Folders of this machine's: what lies there is taken as it is, and nobody else may have written it.
OWN = (".mirage/cache", ".mirage/runs", ".mirage/open")


def refuse(committed: Iterable[str]) -> None:
    """Raise SourceError where one of these paths of a project is, or lies in, a folder of this machine's own."""
    for path in committed:
        for folder in OWN:
            if path == folder or path.startswith(f"{folder}/"):
                raise SourceError(
                    f"{path[:200]!r} is part of the repository, and {folder} is for what this machine itself found out: "
                    "inputs, runs and lists of somebody else would be taken for its own",
                    hint=f"git rm -r --cached {folder}, remove the folder, and have it in .gitignore",
                )


def check(project: Path) -> None:
    """The same for what git has of the project at this moment. Raises SourceError."""
    refuse(tracked(project, *OWN))


def tracked(project: Path, *places: str) -> list[str]:
    """The files of the repository below these places, as paths from the project; none outside of a repository."""
    done = git.run(project, "ls-files", "-z", "--", *places)
    return [] if done.code != 0 else [os.fsdecode(path) for path in filter(None, done.stdout.split(b"\0"))]
