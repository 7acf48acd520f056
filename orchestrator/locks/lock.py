"""The lock stage: the file that pins the environment, parsed into exact packages with their hashes.

Owns which file that is and which reader it goes to; each format has a file of its own beside this one, and
selection.py narrows what is read to one platform and Python.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence

from orchestrator.errors import LockError
from orchestrator.locks import requirements
from orchestrator.locks.pinned import Lock
from orchestrator.locks.source import LockSource

__all__ = ["KNOWN", "Lock", "LockSource", "choose", "likely", "parse", "read"]

KNOWN = ("requirements.txt", "poetry.lock", "Pipfile.lock", "uv.lock", "pylock.toml")
_MANIFESTS = ("pyproject.toml", "Pipfile")
_PYLOCK = re.compile(r"pylock\.([^.]+\.)?toml")  # PEP 751, "File Name"


def choose(present: Sequence[str], wanted: str) -> str:
    """The path of the one lock file of a project.

    ``wanted`` is `auto` or a path. Raises LockError where there is none, or more than one to choose from.
    """
    if wanted != "auto":
        if wanted not in present:
            raise LockError(
                f"the lock file {wanted} is not in the commit",
                hint="commit it, or change `environment: {lock: ...}` in .mirage/project.yaml",
            )
        return wanted
    found = [name for name in KNOWN if name in present]
    if not found:
        raise LockError(
            f"no lock file in the project (looked for {', '.join(KNOWN)})",
            hint="commit a requirements.txt as `pip freeze` writes it; an empty one means: no packages",
        )
    if len(found) > 1:
        raise LockError(
            f"more than one lock file: {', '.join(found)}",
            hint="say which one with `environment: {lock: FILE}` in .mirage/project.yaml",
        )
    return found[0]


def likely(wanted: str) -> tuple[str, ...]:
    """The files that may be read for a lock: itself, and what it was made from."""
    return (*((wanted,) if wanted != "auto" else KNOWN), *_MANIFESTS)


def parse(path: str, content: bytes, unpinned: str = "refuse") -> Lock:
    """Read a lock that stands alone: one that needs no other file of the commit."""
    return read(LockSource(path, content, unpinned=unpinned))


def read(source: LockSource) -> Lock:
    """Read a lock file; raises LockError with file and line for what is not pinned or not understood.

    Also where it does not match the file that it was made from, and where a group is named that it does not have.
    """
    try:
        lock = _reader(posixpath.basename(source.path))(source)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        # whole as JSON or TOML, and not of the shape that its tool gives it: edited by hand, or by an enemy
        raise LockError(
            f"{source.path} is not as its tool writes it: {type(error).__name__}: {str(error)[:200]}",
            hint="have the tool write it anew",
        ) from error
    if not lock.has_groups and source.groups != ("main",):
        raise LockError(
            f"environment.groups names {', '.join(source.groups) or 'none'}, and {source.path} has no groups",
            hint="leave `groups` out of .mirage/project.yaml",
        )
    return lock


def _reader(name: str) -> Callable[[LockSource], Lock]:
    """The reader of a file, loaded when it is needed: the library that most of them use takes a while."""
    if name == "poetry.lock":
        from orchestrator.locks import poetry

        return poetry.read
    if name == "Pipfile.lock":
        from orchestrator.locks import pipfile

        return pipfile.read
    if name == "uv.lock":
        from orchestrator.locks import uv_lock

        return uv_lock.read
    if _PYLOCK.fullmatch(name):
        from orchestrator.locks import pylock

        return pylock.read
    return requirements.read
