"""`Pipfile.lock` with the Pipfile that it was made from: `default`, `develop`, and categories of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from orchestrator.digest import of_bytes
from orchestrator.errors import LockError, at_line, did_you_mean
from orchestrator.locks import local, requirement, vcs
from orchestrator.locks.pinned import MAIN, Index, Lock, Pinned, either, index_of, normal_name
from orchestrator.locks.source import LockSource, Table, location

REFRESH = "pipenv lock"
_GROUPS = {MAIN: "default", "dev": "develop"}
_NO_CATEGORY = (
    "source",
    "packages",
    "dev-packages",
    "requires",
    "scripts",
    "pipfile",
    "pipenv",
    "default",
    "develop",
)


def read(source: LockSource) -> Lock:
    """Read a Pipfile.lock. Raises LockError where it does not match the Pipfile, or lacks a group that is named."""
    try:
        table = json.loads(source.content)
        meta, sections = table["_meta"], {name: each for name, each in table.items() if name != "_meta"}
        said = str(meta["hash"]["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        line = getattr(error, "lineno", None)
        raise LockError(
            f"{at_line(source.path, line)}: not a Pipfile.lock: {error}", hint=f"`{REFRESH}` writes it anew"
        ) from error
    manifest = source.manifest("Pipfile", REFRESH)
    if content_hash(manifest, meta) != said:
        raise LockError(
            f"{source.path} was not made from {source.beside('Pipfile')} as it is now (hash)",
            hint=f"`{REFRESH}`, then commit both",
        )
    chosen = [_section(source, name, sections) for name in source.groups]
    indexes = _indexes(source, meta)
    lines = source.content.decode("utf-8-sig").splitlines()
    found: dict[str, Pinned] = {}
    notes: list[str] = []
    for section in chosen:
        for name, entry in sections[section].items():
            if _is_project(entry):
                notes.append(
                    f"{source.path}: {name}, the project itself, is left out: its code is in the image"
                )
                continue
            package = _package(source, name, entry, _line(lines, section, name), indexes)
            earlier = found.get(package.name)
            if earlier is not None and (earlier.version, earlier.hashes) != (package.version, package.hashes):
                where = at_line(source.path, package.line or None)
                raise LockError(
                    f"{where}: {name} is pinned twice: {earlier.version} (line {earlier.line}) and {package.version}",
                    hint="choose groups that go together, or lock them together",
                )
            markers = (package.marker, package.marker if earlier is None else earlier.marker)
            found[package.name] = replace(package, marker=either(markers))
    wanted = meta.get("requires", {})
    full, short = wanted.get("python_full_version"), wanted.get("python_version")
    return Lock(
        "pipfile",
        source.path,
        of_bytes(source.content),
        tuple(found[name] for name in sorted(found)),
        requires_python=f"=={full}" if full else f"=={short}.*" if short and short != "*" else "",
        notes=tuple(notes),
    )


def content_hash(manifest: Table, meta: Table) -> str:
    """Pipenv's own digest of a Pipfile (its vendored plette/pipfiles.py, `get_hash`)."""
    relevant: Table = {
        # a Pipfile without an index gets pipenv's default, which the lock repeats
        "_meta": {
            "sources": manifest.get("source", meta.get("sources")),
            "requires": manifest.get("requires", {}),
        },
        "default": manifest.get("packages", {}),
        "develop": manifest.get("dev-packages", {}),
    }
    relevant.update({name: each for name, each in manifest.items() if name not in _NO_CATEGORY})
    return sha256(json.dumps(relevant, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _section(source: LockSource, group: str, sections: Table) -> str:
    name = _GROUPS.get(group, group)
    if name not in sections or (name == group and name in _GROUPS.values()):
        known = [{value: key for key, value in _GROUPS.items()}.get(each, each) for each in sections]
        raise LockError(
            f"environment.groups names {group}, and {source.path} has {', '.join(known)}",
            hint=did_you_mean(group, known) or "main is `default`, dev is `develop`; others are categories",
        )
    return name


def _indexes(source: LockSource, meta: Table) -> dict[str, Index | None]:
    """The lock's indexes by name; None for the public one."""
    found: dict[str, Index | None] = {}
    for each in meta.get("sources", []):
        name = str(each.get("name", ""))
        url = location(f"{source.path}: the index {name}", str(each["url"]))
        found[name] = index_of(url, name)
    return found


def _is_project(entry: Table) -> bool:
    path = entry.get("path", entry.get("file"))
    return isinstance(path, str) and path.rstrip("/") in (".", "")


def _package(
    source: LockSource, name: str, entry: Table, line: int, indexes: dict[str, Index | None]
) -> Pinned:
    where = at_line(source.path, line or None)
    hashes = tuple(sorted(str(value) for value in entry.get("hashes", [])))
    markers = [str(entry["markers"])] if entry.get("markers") else []
    pinned: Pinned | None = None
    problem, commit, version = "", "", str(entry.get("version", ""))
    kind = next((key for key in ("git", "hg", "svn", "bzr", "path") if key in entry), None)
    file = str(entry.get("file", ""))
    if kind == "git":
        ref, folder = str(entry.get("ref", "")), str(entry.get("subdirectory", ""))
        commit, problem = vcs.told(where, name, str(entry["git"]), ref, folder)
    elif kind == "path":
        commit, problem = local.told(source, where, name, str(entry["path"]))
    elif kind is not None:
        problem = f"{where}: {name} comes from {kind}"
    elif file.startswith(("http://", "https://")):
        pinned = requirement.pinned(where, f"{normal_name(name)} @ {file}", hashes, line)
    elif file:
        problem = f"{where}: {name} comes from a path"
    else:
        loose = version in ("", "*")  # pipenv could not lock it on the machine that it ran on
        pinned = None if loose else requirement.pinned(where, f"{name}{version}", hashes, line)
        if pinned is None:
            problem = f"{where}: {name} is not pinned to one version: {version or 'any'!r}"
    if pinned is None:
        pinned = Pinned(
            *(normal_name(name), version, (), None, () if commit else hashes, line),
            build=bool(commit),
            vcs=commit,
            problem=problem,
        )
    named = entry.get("index")
    if named is not None and named not in indexes:
        raise LockError(
            f"{where}: {name} comes from the index {named}, which the lock does not have", hint=REFRESH
        )
    default = next(iter(indexes.values()), None)
    return replace(
        pinned,
        extras=tuple(sorted(normal_name(extra) for extra in entry.get("extras", []))),
        marker=markers[0] if markers else None,
        index=None if pinned.url or pinned.vcs else indexes[named] if named is not None else default,
    )


def _line(lines: list[str], section: str, name: str) -> int:
    """Where a package stands, as pipenv lays the file out; 0 where it is not found."""
    rows: Iterator[tuple[int, str]] = iter(enumerate(lines, 1))
    for _, row in rows:
        if row.rstrip() == f'    "{section}": {{':
            return next((number for number, row in rows if row.strip() == f'"{name}": {{'), 0)
    return 0
