"""Whether a store in a folder is its user's alone: nobody else can put anything into it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def is_mine(folder: Path) -> bool:
    """Whether only this user (and root) can write to a folder and to all that leads to it, as modes tell it.

    A group counts as nobody else where it is the user's private one, with the user's own number (what Debian, Fedora
    and others give to everybody). What a file server grants beside the modes cannot be seen from here.
    """
    path = Path(os.path.realpath(folder))
    try:
        inner = [each for each in (path / "keys", path / "blobs") if each.exists()]
        return all(_closed(each, leads_to=False) for each in (*inner, path)) and all(
            _closed(each, leads_to=True) for each in path.parents
        )
    except OSError:
        return False


def _closed(path: Path, *, leads_to: bool) -> bool:
    found = os.stat(path)
    uid = os.geteuid()
    if found.st_uid not in ((uid, 0) if leads_to else (uid,)):
        return False
    others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid not in (uid, 0))
    # in a sticky folder, such as /tmp, nobody can rename what is another's
    return not others or (leads_to and bool(found.st_mode & stat.S_ISVTX))
