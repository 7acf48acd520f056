"""What a reader of locks is given: the lock's bytes, and the files beside it as they are in the commit."""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import LockError, at_line
from orchestrator.locks.pinned import holds_login, shown, without_login

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same library, from before it was in the standard one

Table = dict[str, Any]
_PLACE = re.compile(r"at line (\d+)")


def _nothing(path: str) -> bytes | None:
    return None


def _holds_nothing(folder: str) -> str:
    return ""


@dataclass(frozen=True)
class LockSource:
    """A lock file of a commit, and what the settings say of it; ``read`` gives None for what is not committed.

    ``held`` gives a digest of all that a folder of the project has in the commit, empty where that is nothing. ``own``
    is the project's folder, from that of a lock which lies above it.
    """

    path: str
    content: bytes
    groups: tuple[str, ...] = ("main",)
    unpinned: str = "refuse"
    read: Callable[[str], bytes | None] = field(default=_nothing)
    paths: Sequence[str] = ()
    held: Callable[[str], str] = field(default=_holds_nothing)
    own: str = "."

    @property
    def folder(self) -> str:
        """The folder of the lock in the project; empty at its top."""
        return posixpath.dirname(self.path)

    def beside(self, name: str) -> str:
        """The path in the project of a file that the lock names, relative to its own folder."""
        return posixpath.normpath(posixpath.join(self.folder, name))

    def toml(self) -> Table:
        """The lock as TOML."""
        return toml(self.path, self.content)

    def manifest(self, name: str, refresh: str) -> Table:
        """The file beside the lock that it was made from. Raises LockError where it is not in the commit."""
        path = self.beside(name)
        content = self.read(path)
        if content is None:
            raise LockError(
                f"{self.path} was made from {path}, which is not in the commit",
                hint=f"commit it too: the lock says nothing without it (`{refresh}` makes the lock anew)",
            )
        return toml(path, content)


def toml(path: str, content: bytes) -> Table:
    """A TOML file. Raises LockError that names the line of what is wrong with it."""
    try:
        found: Table = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LockError(f"{path} is not UTF-8: {error}", hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        hint = "was a merge conflict left in it? have its tool write it anew"
        where = at_line(path, int(place[1]) if place else None)
        raise LockError(f"{where}: not TOML: {error}", hint=hint) from error
    return found


def lines_of(content: bytes, header: str) -> list[int]:
    """The lines of the tables of an array of tables, in their order."""
    rows = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    return [number for number, row in rows if row.strip() == header]


def location(where: str, url: str) -> str:
    """An index or a page of links that the lock names. Raises LockError for a place on a machine, or with a login."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LockError(
            f"{where}: not supported in a lock: {shown(url)} is not an address of the network",
            hint="index settings of one machine belong to pip's or uv's own configuration, which is handed to the build",
        )
    if holds_login(url):
        raise LockError(
            f"{where}: not supported in a lock: {shown(url)} holds a login, and the lock is part of the commit",
            hint="take it out, and put it into netrc or pip's own configuration, which is handed to the build",
        )
    return without_login(url)
