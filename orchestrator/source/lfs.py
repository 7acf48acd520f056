"""Git LFS: the grammar of pointer files, and the objects that a clone holds for them (git-lfs docs/spec.md).

Which files of a commit are pointers is attributes.py's part.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.source import git

# spec.md, "The Pointer": keys sorted after `version`, one each, and less than 1024 bytes in all.
_POINTER = re.compile(
    # The two other addresses were git-lfs's own before its first release; git-lfs still reads them.
    rb"version (?:https://git-lfs\.github\.com/spec/v1|https://hawser\.github\.com/spec/v1"
    rb"|http://git-media\.io/v/2)\n"
    rb"((?:ext-[0-9]-[^\n]* sha256:[0-9a-f]{64}\n)*)"
    rb"oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n?"
)
POINTER_BYTES = 1024  # a pointer is smaller


@dataclass(frozen=True)
class Pointer:
    """What a pointer file says: sha256 of the content in hex, its size in bytes, whether extensions changed it."""

    oid: str
    size: int
    extended: bool


def parse_pointer(data: bytes) -> Pointer | None:
    """The pointer that a blob is, or None for any other content."""
    found = _POINTER.fullmatch(data) if len(data) < POINTER_BYTES else None
    return Pointer(found[2].decode(), int(found[3]), bool(found[1])) if found else None


def folder_of(repository: Path) -> Path:
    """Where a clone keeps its LFS objects: `lfs.storage` (git-lfs-config(5)), by default `.git/lfs`."""
    out = git.ask(repository, "rev-parse", "--git-common-dir")
    common = repository / os.fsdecode(out.removesuffix(b"\n"))
    storage = git.run(repository, "config", "--null", "--get", "lfs.storage").stdout.removesuffix(b"\0")
    return common / (os.fsdecode(storage) or "lfs")


def has_object(folder: Path, pointer: Pointer) -> bool:
    """Whether a clone's LFS folder has an object of the pointer's size; ``read_object`` checks its bytes."""
    try:
        found = _path(folder, pointer).stat()
    except OSError:
        return False
    return found.st_size == pointer.size


def read_object(folder: Path, pointer: Pointer) -> bytes | None:
    """The content behind a pointer, from a clone's LFS folder; None where it is absent or damaged."""
    try:
        data = _path(folder, pointer).read_bytes()
    except OSError:
        return None
    if len(data) != pointer.size or hashlib.sha256(data).hexdigest() != pointer.oid:
        return None
    return data


def _path(folder: Path, pointer: Pointer) -> Path:
    return folder / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
