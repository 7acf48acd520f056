"""`pylock.toml` (PEP 751), validated by packaging's own reader; `uv export` gives its locks in this form, too."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock, PylockValidationError

from orchestrator.digest import of_bytes
from orchestrator.errors import LockError, at_line, did_you_mean
from orchestrator.locks import local, requirement, vcs
from orchestrator.locks.pinned import EXTRA, File, Lock, Pinned, index_of, own_groups, place_of, without_login
from orchestrator.locks.source import LockSource, Table, lines_of

_ALGORITHMS = ("sha256", "sha384", "sha512")


def read(source: LockSource) -> Lock:
    """Read a pylock.toml. Raises LockError where it is not one, and for a group that it does not have."""
    return of_table(source, source.toml(), "pylock", lines_of(source.content, "[[packages]]"))


def of_table(
    source: LockSource,
    table: Table,
    kind: str,
    lines: list[int],
    index_names: Mapping[str, str] | None = None,
) -> Lock:
    """A lock of what a pylock.toml says; ``index_names`` are those that credentials go by."""
    try:
        found = Pylock.from_dict(table)
    except PylockValidationError as error:
        raise LockError(
            f"{source.path}: not a lock in the form of PEP 751: {error}", hint="have its tool write it anew"
        ) from error
    groups, extras = own_groups(source.groups)
    _check(source.path, groups, found.dependency_groups or (), "group")
    _check(source.path, extras, found.extras or (), "extra")
    defaults = tuple(found.default_groups or ()) if "main" in source.groups else ()
    packages: list[Pinned] = []
    notes: list[str] = []
    for number, package in enumerate(found.packages):
        line = lines[number] if len(lines) == len(found.packages) else 0
        where = at_line(source.path, line or None)
        folder = None if package.directory is None else posixpath.normpath(package.directory.path)
        if folder is not None and (folder == source.own or source.beside(folder) == (source.folder or ".")):
            notes.append(
                f"{where}: {package.name}, the project itself, is left out: its code is in the image"
            )
        else:
            packages.append(_pinned(source, where, line, package, index_names or {}))
    return Lock(
        kind,
        source.path,
        of_bytes(source.content),
        tuple(packages),
        requires_python=str(found.requires_python or ""),
        environments=tuple(str(marker) for marker in found.environments or ()),
        extras=extras,
        groups=tuple(sorted({*defaults, *groups})),
        notes=tuple(notes),
    )


def _check(path: str, wanted: tuple[str, ...], known: object, what: str) -> None:
    names = [str(name) for name in known] if isinstance(known, list | tuple) else []
    for name in wanted:
        if name not in names:
            prefix = EXTRA if what == "extra" else ""
            raise LockError(
                f"environment.groups names the {what} {name}, and {path} has "
                + (f"these: {', '.join(names)}" if names else "none"),
                hint=did_you_mean(prefix + name, [prefix + each for each in names])
                or "have the lock's tool write it with that group",
            )


def _pinned(
    source: LockSource, where: str, line: int, package: Package, index_names: Mapping[str, str]
) -> Pinned:
    """A package; what cannot be installed from the commit and an index alone is its problem, told if it is chosen."""
    problem, url, commit, version = "", "", "", str(package.version or "")
    files: tuple[File, ...] = ()
    if package.vcs is not None:
        told = package.vcs
        if told.type != "git" or told.url is None:
            problem = (
                f"{where}: {package.name} comes from version control ({told.type}, {told.path or told.url})"
            )
        else:
            commit, problem = vcs.told(where, package.name, told.url, told.commit_id, told.subdirectory or "")
    elif package.directory is not None:
        path = posixpath.join(package.directory.path, package.directory.subdirectory or "")
        commit, problem = local.told(source, where, package.name, path)
    elif package.archive is not None:
        archive = package.archive
        if archive.url is None:
            problem = f"{where}: {package.name} comes from the file {archive.path}"
        else:
            url = without_login(archive.url)
            name = unquote(urlsplit(url).path.rpartition("/")[2])
            files = (File(name, _hashes(archive.hashes), url),)
            version = version or requirement.name_and_version(where, name)[1]
    else:
        offered: list[PackageWheel | PackageSdist] = [
            *(package.wheels or ()),
            *([package.sdist] if package.sdist else []),
        ]
        files = tuple(_file(package, each) for each in offered)
        if all(each.url is None for each in offered) and any(each.path for each in offered):
            problem = f"{where}: {package.name} comes from files beside the lock"
    if not problem and any(not file.hashes for file in files):
        problem = f"{where}: {package.name} has a file without a sha256, sha384 or sha512"
    return Pinned(
        package.name,
        version,
        (),
        None if package.marker is None else str(package.marker),
        tuple(sorted({value for file in files for value in file.hashes})),
        line,
        url=url,
        index=None
        if package.index is None
        else index_of(package.index, index_names.get(package.index.rstrip("/"), "")),
        files=files,
        requires_python=str(package.requires_python or ""),
        build=bool(commit),
        vcs=commit,
        problem=problem,
    )


def _file(package: Package, offered: PackageWheel | PackageSdist) -> File:
    """A file; where it is, is said only for what no index has."""
    url = place_of(offered.url) if offered.url and package.index is None else ""
    return File(offered.filename, _hashes(offered.hashes), url)


def _hashes(given: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{kind}:{given[kind].lower()}" for kind in _ALGORITHMS if kind in given)
