"""Packages that a lock takes from a git repository at a full commit: their one normal form, and what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from orchestrator.errors import LockError
from orchestrator.locks.pinned import shown

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT = re.compile(r"([^/:@\s]+@)?([^/:@\s]+):(?![/0-9])(\S+)")  # git's own `host:path`
_SCHEMES = ("https", "http", "ssh")


@dataclass(frozen=True)
class Place:
    """A folder of a repository at a commit."""

    url: str
    commit: str
    folder: str = ""

    def spelled(self) -> str:
        """As pip writes it ("VCS Support"): what the environment's key and manifest have."""
        return f"git+{self.url}@{self.commit}" + (f"#subdirectory={self.folder}" if self.folder else "")


def read(where: str, name: str, text: str) -> Place:
    """A line's URL, `git+https://host/path@COMMIT#subdirectory=FOLDER`. Raises LockError."""
    parts = urlsplit(text)
    told = parse_qs(parts.fragment)
    url, mark, revision = parts._replace(fragment="").geturl().rpartition("@")
    if not mark or "/" in revision or "//" not in url:  # the @ belongs to the host, if there is one
        url, revision = parts._replace(fragment="").geturl(), ""
    return place(where, name, url, revision, told.get("subdirectory", [""])[0])


def place(where: str, name: str, url: str, commit: str, folder: str = "") -> Place:
    """A repository as a lock names it. Raises LockError for another place or kind, and without a full commit."""
    kind, plus, rest = url.partition("+")
    if plus and "/" not in kind:
        if kind != "git":
            raise LockError(
                f"{where}: {name} comes from version control of another kind than git ({kind})",
                hint=f"publish a wheel of {name} and lock that",
            )
        url = rest
    short = _SHORT.fullmatch(url)
    if short is not None:
        url = f"ssh://{short[1] or ''}{short[2]}/{short[3]}"
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise LockError(
            f"{where}: {name} comes from a git repository at {shown(url)}, which other machines may not have",
            hint="name it by https:// or ssh://, where all who build this can reach it; a package of this very "
            "repository belongs on PYTHONPATH",
        )
    # ssh's user name is part of the address (`git@`), and no secret
    if parts.password or (parts.username and parts.scheme != "ssh"):
        raise LockError(
            f"{where}: the URL of {name} holds a login, and the lock is part of the commit",
            hint="take it out: git's own credential helper or netrc has it when the package is fetched",
        )
    if not _COMMIT.fullmatch(commit):
        told = f"the revision {commit!r}, which may move" if commit else "no revision"
        raise LockError(
            f"{where}: {name} comes from git at {told}, and only a full commit always means the same",
            hint=f"write git+{parts._replace(fragment='').geturl()}@COMMIT with all 40 digits "
            "(`git ls-remote URL` shows them)",
        )
    folder = folder.strip("/")
    if any(part in ("..", ".git", "") for part in folder.split("/")) and folder:
        raise LockError(
            f"{where}: {name} is in no folder of its repository: {folder!r}", hint="which one is it?"
        )
    return Place(parts._replace(fragment="").geturl(), commit, folder)


def parse(spelled: str) -> Place:
    """What ``Place.spelled`` wrote."""
    return read("", "", spelled)


def told(where: str, name: str, url: str, commit: str, folder: str) -> tuple[str, str]:
    """For locks of which a part is installed: (the normal form, why it cannot be installed), one of them empty."""
    try:
        return place(where, name, url, commit, folder).spelled(), ""
    except LockError as error:
        return "", error.message
