"""Inputs that were laid out in a project and serve no run any more: which, and taking them away."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TREE = re.compile(r"[0-9a-f]{64}")
_IN_USE = 3600.0  # seconds after its last use in which the container of a tree may still be on its way


@dataclass(frozen=True)
class Tree:
    """A tree that can go: bytes of it that are no other file's too, and when it served last (nanoseconds since 1970)."""

    path: Path
    size: int
    served: int


def needed(runs: Path, opened: Path) -> set[str]:
    """The trees (hex digests) that open runs have, of which a container may be at work."""
    found: set[str] = set()
    with suppress(FileNotFoundError):
        for marker in sorted(opened.iterdir()):
            with suppress(OSError, ValueError):
                listed = json.loads((runs / marker.name / "trees.json").read_text())
                found.update(str(tree).removeprefix("sha256:") for _, tree in listed)
    return found


def unused(folder: Path, wanted: set[str], older_than: float) -> list[Tree]:
    """The laid-out trees in a project's cache that no open run has, and that served none for that many seconds."""
    found = []
    with suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            if _TREE.fullmatch(path.name) and path.name not in wanted:
                with suppress(OSError):
                    served = path.with_suffix(".json").stat().st_mtime_ns
                    if time.time() - served / 1e9 >= max(older_than, _IN_USE):
                        found.append(Tree(path, _own(path), served))
    return found


def _own(top: Path) -> int:
    size = 0
    for folder, _, names in os.walk(top):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                size += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return size


def remove(tree: Tree) -> bool:
    """Remove a tree, unless a run has asked for it since it was found; whoever asks later lays it out anew."""
    stamps = tree.path.with_suffix(".json")
    with tree.path.with_suffix(".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # it is being laid out
        aside = stamps.with_name(f".old-{tree.path.name[:16]}-{os.getpid()}")
        try:
            stamps.rename(aside)  # from here on nobody takes it for whole
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime_ns != tree.served:
            aside.rename(stamps)
            return False
        aside.unlink()
        for inner, _, _ in os.walk(tree.path):
            with suppress(OSError):
                os.chmod(inner, 0o700)
        shutil.rmtree(tree.path, ignore_errors=True)
    return True
