"""Removing a folder that somebody hostile filled: any depth, any mode, no link followed."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it; missing is fine. Raises OSError where something stays.

    Directories are moved up beside each other before they are emptied: their depth then costs neither stack nor
    descriptors (shutil.rmtree recurses, and a workflow nests as deep as it likes).
    """
    try:
        top = _open_own(str(folder), None)
    except FileNotFoundError:
        return
    try:
        while inner := _empty(top, top):
            for name in inner:
                descriptor = _open_own(name, top)
                try:
                    _empty(descriptor, top)
                finally:
                    os.close(descriptor)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)


def _empty(folder: int, top: int) -> list[str]:
    """Unlink a folder's files and move its directories to ``top``; in ``top`` itself they stay, and are given."""
    inner: list[str] = []
    with os.scandir(folder) as items:
        names = [(item.name, item.is_dir(follow_symlinks=False)) for item in items]
    for name, is_folder in names:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif folder == top:
            inner.append(name)
        else:
            with suppress(OSError):  # moving a directory writes its `..`
                os.chmod(name, 0o700, dir_fd=folder)
            os.rename(name, f"{secrets.token_hex(12)}.gone", src_dir_fd=folder, dst_dir_fd=top)
    return inner


def _open_own(name: str, parent: int | None) -> int:
    """Open a directory of ours, giving ourselves the right to where its mode says no."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    with suppress(OSError):
        os.fchmod(descriptor, 0o700)
    return descriptor
