"""Packages that a lock takes from folders of the commit itself: their one normal form, and what is refused.

The form holds what the folder has in the commit, so that it is part of the environment's key. Reads names, no code.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote

from orchestrator.errors import LockError
from orchestrator.locks.pinned import normal_name
from orchestrator.locks.source import LockSource, toml

_FORM = "folder:"
# a line of a requirements file, or what follows -e: a path, extras, a marker
_LINE = re.compile(r"((?:\.{1,2}/|[\w.-]+/)[^\s;\[\]@:]*|\.\.)(\[[^\]]*\])?(?:\s*;\s*(.+))?")
_SETUP_CFG = re.compile(rb"(?ms)^\[metadata\][^\[]*?^name\s*=\s*([A-Za-z0-9._-]+)\s*$")


def path_in(line: str) -> tuple[str, tuple[str, ...], str | None] | None:
    """The path, extras and marker of a line that is a path; None for any other line."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    extras = tuple(sorted(normal_name(each) for each in (match[2] or "[]")[1:-1].split(",") if each.strip()))
    return match[1], extras, match[3]


def told(source: LockSource, where: str, name: str, path: str) -> tuple[str, str]:
    """For locks of which a part is installed: (the normal form, why it cannot be installed), one of them empty."""
    folder = source.beside(path)
    if posixpath.isabs(path):
        return "", f"{where}: {name} comes from {path}, which lies outside of the project"
    held = source.held(folder)
    if not held and (folder == ".." or folder.startswith("../")):
        return "", (
            f"{where}: {name} comes from {path}, which lies outside of the project, and the commit has no file there"
        )
    if not held:
        return "", f"{where}: {name} comes from the folder {folder}, of which the commit has no file"
    return f"{_FORM}{quote(folder)}@{held}", ""


def spelled(source: LockSource, where: str, name: str, path: str) -> str:
    """The normal form. Raises LockError where there is none."""
    found, problem = told(source, where, name, path)
    if problem:
        raise LockError(
            problem,
            hint="only folders of the project's own repository can be built: commit it, or lock a release of it",
        )
    return found


def folder_of(form: str) -> str | None:
    """The folder in the project of what ``told`` wrote; None for what is from elsewhere (vcs.py)."""
    return unquote(form[len(_FORM) :].rpartition("@")[0]) if form.startswith(_FORM) else None


def name_of(source: LockSource, where: str, path: str) -> str:
    """The name of the package in a folder, as its own metadata says it. Raises LockError where none does."""
    folder = source.beside(path)
    content = source.read(posixpath.join(folder, "pyproject.toml"))
    if content is not None:
        table = toml(posixpath.join(folder, "pyproject.toml"), content)
        name = table.get("project", table.get("tool", {}).get("poetry", {})).get("name")
        if isinstance(name, str):
            return normal_name(name)
    match = _SETUP_CFG.search(source.read(posixpath.join(folder, "setup.cfg")) or b"")
    if match is not None:
        return normal_name(match[1].decode())
    spelled(source, where, "a package", path)  # a folder that is not there, or outside, is told as that
    raise LockError(
        f"{where}: the package in {folder} does not say its name where it can be read without running its code",
        hint=f"write `name` under [project] of {folder}/pyproject.toml (or [metadata] of its setup.cfg)",
    )
