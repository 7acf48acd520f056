"""The objects of one repository by `git cat-file`: their bytes, and the time that a commit object tells.

Knows neither paths nor LFS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git

_COMMITTER = re.compile(rb"committer (?:.*\s)?(-?[0-9]{1,20})\s+\S+\s*", re.DOTALL)
_LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z: RFC 3339 and Python have no later time


def contents(repository: Path, names: Sequence[str]) -> Iterator[bytes | None]:
    """The objects' contents by `git cat-file --batch`; None where the clone does not have one."""
    if not names:
        return
    stdin = os.fsencode("".join(f"{name}\n" for name in names))
    out = git.ask(repository, "cat-file", "--batch", stdin=stdin)
    at = 0
    for _ in names:
        end = out.index(b"\n", at)
        head = out[at:end].split(b" ")
        at = end + 1
        if len(head) == 3 and head[2].isdigit():
            size = int(head[2])
            yield out[at : at + size]
            at += size + 1
        else:  # `<name> missing`, or `<name> ambiguous`
            yield None


def commit_time(content: bytes, commit: str) -> int:
    """The committer's time in a commit object (git-cat-file(1) prints it raw), within 1970 to 9999."""
    for line in content.split(b"\n\n", 1)[0].split(b"\n"):
        found = _COMMITTER.fullmatch(line)
        if found is not None:
            return min(max(0, int(found[1])), _LAST_SECOND)
    raise SourceError(f"the commit {commit} cannot be read", hint="git fsck")


def absent(path: bytes, oid: str) -> SourceError:
    """The error for a file whose object the clone does not have."""
    return SourceError(
        f"the content of {git.printable(path)} is not in this clone (object {oid})", hint=git.REFETCH
    )
