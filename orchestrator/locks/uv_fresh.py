"""Whether a uv.lock was made from the pyproject.toml beside it.

By comparison of what both say that the project needs: `uv lock --check` would resolve, may run the project's build
on this machine, and needs an interpreter that fits the project. What a project computes (`dynamic`) is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from orchestrator.errors import LockError
from orchestrator.locks.pinned import normal_name
from orchestrator.locks.source import LockSource, Table

_PYTHONS = tuple(f"3.{minor}.{micro}" for minor in range(6, 18) for micro in (0, 12))
_PLATFORMS = (
    ("linux", "posix", "Linux", "x86_64"),
    ("linux", "posix", "Linux", "aarch64"),
    ("darwin", "posix", "Darwin", "arm64"),
    ("win32", "nt", "Windows", "AMD64"),
)
_EXTRA = re.compile(r"""extra == ["']([^"']+)["']""")
# (group, extra, name, its extras, versions, where it holds)
_Need = tuple[str, str, str, tuple[str, ...], str, object]


def check(source: LockSource, table: Table, members: Mapping[str, tuple[Table, Table]]) -> None:
    """Raises LockError that names the first difference."""
    for folder, (package, manifest) in sorted(members.items()):
        path = source.beside(f"{folder}/pyproject.toml")
        project = manifest.get("project", {})
        wanted = str(project.get("requires-python", ""))
        made_for = str(table.get("requires-python", ""))
        if len(members) == 1 and wanted and _pythons(path, wanted) != _pythons(source.path, made_for):
            raise _stale(source, path, f"requires-python is {wanted!r} there, {made_for!r} here")
        says = package.get("metadata", {})
        loose = _with_sources(manifest)
        try:
            needs = set(_of_manifest(path, manifest, made_for, loose))
            known = set(_of_lock(says, made_for, loose))
        except (InvalidRequirement, InvalidSpecifier, KeyError, TypeError, AttributeError) as error:
            raise LockError(
                f"{path} or {source.path} has a requirement that cannot be read: {error}", hint="see PEP 508"
            ) from error
        if _dynamic(project):
            needs, known = ({each for each in both if each[0]} for both in (needs, known))
        if needs != known:
            raise _stale(source, path, _difference(needs, known))


def _stale(source: LockSource, path: str, what: str) -> LockError:
    return LockError(
        f"{source.path} was not made from {path} as it is now: {what}", hint="`uv lock`, then commit both"
    )


def _dynamic(project: Table) -> bool:
    dynamic = project.get("dynamic", [])
    return not project or "dependencies" in dynamic or "optional-dependencies" in dynamic


def _with_sources(manifest: Table) -> frozenset[str]:
    """Packages that uv is told a place for: of these the lock has the place instead of the versions."""
    return frozenset(normal_name(name) for name in manifest.get("tool", {}).get("uv", {}).get("sources", {}))


def _of_manifest(path: str, manifest: Table, pythons: str, loose: frozenset[str]) -> Iterator[_Need]:
    project = manifest.get("project", {})
    for line in project.get("dependencies", []):
        yield _need("", "", Requirement(line), pythons, loose)
    for extra, lines in project.get("optional-dependencies", {}).items():
        for line in lines:
            yield _need("", normal_name(extra), Requirement(line), pythons, loose)
    groups = manifest.get("dependency-groups", {})
    for group in groups:
        for line in _group(path, groups, group, ()):
            yield _need(normal_name(group), "", Requirement(line), pythons, loose)
    for line in manifest.get("tool", {}).get("uv", {}).get("dev-dependencies", []):
        yield _need("dev", "", Requirement(line), pythons, loose)


def _group(path: str, groups: Table, name: str, within: tuple[str, ...]) -> Iterator[str]:
    """The lines of a dependency group, those that it includes too (PEP 735)."""
    by_name = {normal_name(each): lines for each, lines in groups.items()}
    if normal_name(name) in within or normal_name(name) not in by_name:
        raise LockError(
            f"{path}: the dependency group {name} includes itself, or is not there", hint="PEP 735"
        )
    for item in by_name[normal_name(name)]:
        if isinstance(item, str):
            yield item
        else:
            yield from _group(path, groups, item["include-group"], (*within, normal_name(name)))


def _need(group: str, extra: str, found: Requirement, pythons: str, loose: frozenset[str]) -> _Need:
    name = canonicalize_name(found.name)
    extras = tuple(sorted(canonicalize_name(each) for each in found.extras))
    anywhere = name in loose or found.url is not None
    marker = "" if found.marker is None else str(found.marker)
    asked = _EXTRA.search(marker)
    extra = normal_name(asked[1]) if asked else extra
    return (
        group,
        extra,
        name,
        extras,
        *(("", "") if anywhere else (_versions(str(found.specifier)), _holds(marker, pythons, extra))),
    )


def _of_lock(says: Table, pythons: str, loose: frozenset[str]) -> Iterator[_Need]:
    for item in says.get("requires-dist", []):
        yield _locked("", item, pythons, loose)
    for group, items in says.get("requires-dev", {}).items():
        for item in items:
            yield _locked(normal_name(group), item, pythons, loose)


def _locked(group: str, item: Table, pythons: str, loose: frozenset[str]) -> _Need:
    marker = str(item.get("marker", ""))
    asked = _EXTRA.search(marker)
    extra = normal_name(asked[1]) if asked else ""
    name = normal_name(item["name"])
    wanted = tuple(sorted(normal_name(each) for each in item.get("extras", [])))
    anywhere = name in loose or not {"git", "url", "path", "directory", "editable", "virtual"}.isdisjoint(
        item
    )
    return (
        group,
        extra,
        name,
        wanted,
        *(
            ("", "")
            if anywhere
            else (_versions(str(item.get("specifier", ""))), _holds(marker, pythons, extra))
        ),
    )


def _versions(text: str) -> str:
    return "" if text == "*" else str(SpecifierSet(text))


@cache
def _pythons(path: str, text: str) -> tuple[bool, ...]:
    try:
        allowed = SpecifierSet(text)
    except InvalidSpecifier as error:
        raise LockError(
            f"{path}: requires-python {text!r} is not a version specifier", hint="see PEP 440"
        ) from error
    return tuple(allowed.contains(version) for version in _PYTHONS)


@cache
def _holds(marker: str, pythons: str, extra: str) -> object:
    """Where a marker holds: uv writes the same one in other words."""
    if not marker:
        return "everywhere"
    allowed = SpecifierSet(pythons)
    parsed = Marker(marker)
    found = []
    for python in _PYTHONS:
        if not allowed.contains(python):
            continue
        for platform, os_name, system, machine in _PLATFORMS:
            environment = {
                "extra": extra,
                "implementation_name": "cpython",
                "implementation_version": python,
                "os_name": os_name,
                "platform_machine": machine,
                "platform_python_implementation": "CPython",
                "platform_system": system,
                "python_full_version": python,
                "python_version": python.rpartition(".")[0],
                "sys_platform": platform,
            }
            found.append(parsed.evaluate(environment))
    return "everywhere" if all(found) else tuple(found)


def _difference(needs: set[_Need], known: set[_Need]) -> str:
    ours, theirs = sorted(needs - known, key=str), sorted(known - needs, key=str)
    said = f"{_shown(ours[0])} there" if ours else "less there"
    same = [each for each in theirs if ours and each[2] == ours[0][2]] or theirs
    return said + (f", {_shown(same[0])} here" if same else ", and nothing of it here")


def _shown(need: _Need) -> str:
    group, extra, name, extras, versions, where = need
    of = f" (group {group})" if group else f" (extra {extra})" if extra else ""
    marked = "" if where in ("", "everywhere") else " with a marker"
    return f"{name}{'[' + ','.join(extras) + ']' if extras else ''}{versions}{marked}{of}"
