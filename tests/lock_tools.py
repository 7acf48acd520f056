"""Locks of tests/locks/ as a commit would hold them, and the machines that they are narrowed to."""

from __future__ import annotations

from pathlib import Path

from orchestrator.locks import lock
from orchestrator.locks.lock import LockSource
from orchestrator.locks.pinned import Lock
from orchestrator.locks.selection import select
from orchestrator.locks.target import Target

LOCKS = Path(__file__).parent / "locks"
LINUX = Target("amd64", "CPython", "3.11.2", "glibc 2.36")


def files_of(folder: str) -> dict[str, bytes]:
    """The files of one folder of tests/locks/, by path."""
    top = LOCKS / folder
    return {
        str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()
    }


def read(files: dict[str, bytes], path: str, *groups: str) -> Lock:
    """A lock as it is read from a commit of these files."""
    source = LockSource(path, files[path], groups or ("main",), "refuse", files.get, list(files))
    return lock.read(source)


def chosen(files: dict[str, bytes], path: str, *groups: str, target: Target = LINUX) -> list[str]:
    """What is installed, as name==version."""
    return [f"{each.name}=={each.version}" for each in select(read(files, path, *groups), target).packages]
