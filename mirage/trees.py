"""Copies of the user's files and directories into a payload: regular files, directories and links only."""

from __future__ import annotations

import os
import shutil
import stat

from mirage.errors import ArtifactError


def copy_file(source: str, target: str) -> None:
    """Copy a file's bytes and whether it is executable; raises ArtifactError for a pipe, socket or device."""
    mode = os.stat(source).st_mode
    if not stat.S_ISREG(mode):
        raise ArtifactError(f"{source} is no regular file")
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if mode & 0o100 else 0o644)


def copy_tree(source: str, target: str) -> None:
    """Copy a directory's content into an empty one, links as links.

    Directories are made writable for their owner whatever they were: an input's tree is read-only, and a copy
    of it has to be removable. Raises ArtifactError for special files and names that are not UTF-8.
    """
    origin, goal = os.path.realpath(source), os.path.realpath(target)
    if os.path.commonpath([origin, goal]) == origin:
        raise ArtifactError(f"{source} holds the run's own outbox and cannot be saved as a whole")
    todo = [(source, target)]
    while todo:
        folder, copy = todo.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                place = os.path.join(copy, checked_entry(entry.name))
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), place)
                elif entry.is_dir():
                    os.mkdir(place)
                    todo.append((entry.path, place))
                else:
                    copy_file(entry.path, place)


def checked_entry(name: str) -> str:
    """Give a file's name back; raises ArtifactError where it has no UTF-8 form and so no JSON form."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArtifactError(
            f"the file name {os.fsencode(name)!r} is not UTF-8", hint="rename the file"
        ) from error
    return name
