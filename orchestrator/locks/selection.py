"""A lock narrowed to one platform and Python: the packages that are needed there, and the one file of each.

Before anything is built: what has no file for that platform or Python is a LockError that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from orchestrator.errors import LockError, at_line
from orchestrator.locks.pinned import Edge, File, Lock, Pinned, with_extras
from orchestrator.locks.target import Target

_ENDS = (".tar.gz", ".zip", ".tar.bz2", ".tgz")
_ROUNDS = 100


def select(lock: Lock, target: Target) -> Lock:
    """The lock as it is installed on ``target``: without markers, each package once, its best file alone.

    Where the lock names no files, the index decides among those with the lock's hashes. Raises LockError.
    """
    _check_python(lock, target)
    if all(package.plain for package in lock.packages) and lock.roots is None:
        return lock
    if lock.roots is None:
        found = [package for package in lock.packages if _holds(package.marker, target, lock)]
        packages = _each_once(lock, found)
    else:
        packages = _needed(lock, lock.roots, target)
    for package in packages:
        where = at_line(lock.path, package.line or None)
        if package.problem:
            raise LockError(
                f"{package.problem}, which an image cannot be made of again",
                hint=f"pin a released version of {package.name}, or publish a wheel of it on an index and lock that",
            )
        if not _allows(package.requires_python, target.python):
            raise LockError(
                f"{where}: {package.name}=={package.version} needs Python {package.requires_python}, and the base has "
                f"{target.python}",
                hint="lock for that Python, or take a base with another one (`base:`)",
            )
    chosen = (_with_file(lock, replace(package, marker=None), target) for package in packages)
    return replace(lock, packages=tuple(sorted(chosen, key=lambda each: each.name)), roots=None)


def _check_python(lock: Lock, target: Target) -> None:
    if not _allows(lock.requires_python, target.python):
        raise LockError(
            f"{lock.path} is for Python {lock.requires_python}, and the base has {target.python}",
            hint="take a base with such a Python (`base:` in .mirage/project.yaml), or lock for this one",
        )
    if lock.environments and not any(_holds(each, target, lock) for each in lock.environments):
        raise LockError(
            f"{lock.path} is not for {target}: {'; '.join(lock.environments)}",
            hint="lock for Linux too, with this Python",
        )


def _allows(versions: str, python: str) -> bool:
    if not versions:
        return True
    from orchestrator.locks import poetry_versions

    return poetry_versions.allows(versions, python)


def _holds(marker: str | None, target: Target, lock: Lock) -> bool:
    if marker is None:
        return True
    from packaging.markers import Marker

    environment: dict[str, str | frozenset[str]] = {
        **target.environment(),
        "extras": frozenset(lock.extras),
        "dependency_groups": frozenset(lock.groups),
    }
    asks = "extras" in marker or "dependency_groups" in marker
    if asks:
        return Marker(marker).evaluate(environment, context="lock_file")
    return Marker(marker).evaluate({**target.environment(), "extra": ""})


def _each_once(lock: Lock, found: Iterable[Pinned]) -> list[Pinned]:
    by_name: dict[str, Pinned] = {}
    for package in found:
        earlier = by_name.get(package.name)
        if earlier is None:
            by_name[package.name] = package
            continue
        if (earlier.version, earlier.url, earlier.index, earlier.vcs) != (
            *(package.version, package.url, package.index, package.vcs),
        ):
            places = " and ".join(
                f"{each.version} (line {each.line})" if each.line else each.version
                for each in (earlier, package)
            )
            raise LockError(
                f"{lock.path}: {package.name} is wanted at two versions at once: {places}",
                hint="choose groups that go together, or make the lines' markers exclude each other",
            )
        by_name[package.name] = replace(
            earlier,
            extras=tuple(sorted({*earlier.extras, *package.extras})),
            hashes=tuple(sorted({*earlier.hashes, *package.hashes})),
        )
    return list(by_name.values())


def _needed(lock: Lock, roots: tuple[Edge, ...], target: Target) -> list[Pinned]:
    """The packages that are reached from the roots, each at the version that all who need it allow."""
    offered: dict[str, list[Pinned]] = {}
    for package in lock.packages:
        if _allows(package.requires_python, target.python):
            offered.setdefault(package.name, []).append(package)
    chosen: dict[str, Pinned] = {}
    for _ in range(_ROUNDS):
        edges = [edge for edge in roots if _holds(edge.marker, target, lock)]
        wanted = _reached(edges, chosen, target, lock)
        found = {name: _version(lock, name, each, offered) for name, each in wanted.items()}
        if found == chosen:
            return list(found.values())
        chosen = found
    raise LockError(f"{lock.path}: its dependencies lead nowhere", hint="write it anew with its own tool")


def _reached(
    roots: list[Edge], chosen: dict[str, Pinned], target: Target, lock: Lock
) -> dict[str, list[Edge]]:
    """Who is needed, by which edges, as far as versions are known."""
    wanted: dict[str, list[Edge]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = list(roots)
    while todo:
        edge = todo.pop()
        wanted.setdefault(edge.name, [])
        if edge not in wanted[edge.name]:
            wanted[edge.name].append(edge)
        extras = frozenset(extra for each in wanted[edge.name] for extra in each.extras)
        package = chosen.get(edge.name)
        if package is not None and (edge.name, extras) not in seen:
            seen.add((edge.name, extras))
            todo += _active(package, extras, target, lock)
    return wanted


def _active(package: Pinned, extras: frozenset[str], target: Target, lock: Lock) -> Iterator[Edge]:
    by_extra = {name for extra, names in package.extra_names if extra in extras for name in names}
    for edge in package.requires:
        if edge.optional and edge.name not in by_extra:
            continue
        if _holds(with_extras(edge.marker, extras), target, lock):
            yield edge


def _version(lock: Lock, name: str, edges: list[Edge], offered: dict[str, list[Pinned]]) -> Pinned:
    from packaging.version import Version

    from orchestrator.locks import poetry_versions

    found = [
        package
        for package in offered.get(name, ())
        if all(
            poetry_versions.allows(edge.versions, package.version) for edge in edges if not package.problem
        )
    ]
    if not found:
        wanted = ", ".join(sorted({edge.versions for edge in edges}))
        raise LockError(
            f"{lock.path}: {name} is needed ({wanted}), and the lock has no such version for this Python",
            hint="write the lock anew with its own tool",
        )
    return max(found, key=lambda package: Version(package.version))


def _with_file(lock: Lock, package: Pinned, target: Target) -> Pinned:
    """A package with the one file that fits best: a wheel, else the source distribution, to be built."""
    files = [file for file in package.files if _is_of(file, package)]
    if not package.files:
        return package
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    ranked = []
    for file in files:
        if not file.is_wheel:
            continue
        try:
            _, _, build, tags = parse_wheel_filename(file.name)
        except InvalidWheelFilename:
            continue  # an old index may have such; no installer takes them
        rank = target.rank(tags)
        if rank is not None:
            ranked.append((rank, -build[0] if build else 1, file.name, file))
    sources = [file for file in files if file.name.endswith(_ENDS)]
    if ranked:
        best = min(ranked, key=lambda each: each[:3])[3]
        return replace(package, hashes=best.hashes, url=best.url, files=(best,), extras=())
    if sources:
        source = min(sources, key=lambda file: _ENDS.index(next(e for e in _ENDS if file.name.endswith(e))))
        return replace(package, hashes=source.hashes, url=source.url, files=(source,), extras=(), build=True)
    where = at_line(lock.path, package.line or None)
    raise LockError(
        f"{where}: {package.name}=={package.version} has no file for {target}: there is "
        + (", ".join(sorted(file.name for file in files)) or "none"),
        hint="lock a version that has a wheel for it, or take another base (`base:` in .mirage/project.yaml)",
    )


def _is_of(file: File, package: Pinned) -> bool:
    """Whether a file is of the package's version: an old lock lists those of all versions together."""
    if package.url or not package.version:
        return True
    from packaging.utils import (
        InvalidSdistFilename,
        InvalidWheelFilename,
        parse_sdist_filename,
        parse_wheel_filename,
    )
    from packaging.version import Version

    try:
        if file.is_wheel:
            return parse_wheel_filename(file.name)[1] == Version(package.version)
        return parse_sdist_filename(file.name)[1] == Version(package.version)
    except (InvalidSdistFilename, InvalidWheelFilename):
        return package.version in file.name
