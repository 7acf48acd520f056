"""What differs between two runs, in the order in which it matters: source, packages, config, then what came of it.

Reads records, environment manifests and git; judges nothing and changes nothing. Whether outputs with other bytes are
close enough is for those who make a run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.catalog.row import Row
from orchestrator.errors import MirageError
from orchestrator.source import history

_COMMITS = 50  # of each side that are named


@dataclass(frozen=True)
class Change:
    """One thing that differs, with its value in each run as JSON text; None where it is not there."""

    name: str
    left: str | None
    right: str | None

    def values(self) -> tuple[Json, Json]:
        """Both values; None where there is none."""
        return (
            None if self.left is None else canonical.decode(self.left),
            None if self.right is None else canonical.decode(self.right),
        )


@dataclass(frozen=True)
class Section:
    """What differs in one respect; ``note`` says what could not be looked at."""

    title: str
    changes: tuple[Change, ...]
    note: str | None = None


def compare(left: Row, right: Row, repository: Path) -> tuple[Section, ...]:
    """The respects in which two runs differ. ``repository`` is a folder whose git may have both commits.

    Raises StoreError where a record or config is damaged.
    """
    sections = (
        _commits(left, right, repository),
        _files(left, right, repository),
        _packages(left, right),
        Section("config", _changes(leaves(left.config), leaves(right.config))),
        Section("settings", _changes(_settings(left), _settings(right))),
        Section("base", _changes(_base(left), _base(right))),
        Section("inputs", _changes(_inputs(left), _inputs(right))),
        Section("hardware", _changes(leaves(_hardware(left)), leaves(_hardware(right)))),
        Section("engine", _changes(_builder(left), _builder(right))),
        Section("sandbox", _changes(leaves(_internal(left, "sandbox")), leaves(_internal(right, "sandbox")))),
        Section("result", _changes(_result(left), _result(right))),
        Section("metrics", _changes(left.result["metrics"], right.result["metrics"])),
        Section("outputs", _changes(_outputs(left), _outputs(right))),
    )
    return tuple(section for section in sections if section.changes or section.note)


def _changes(left: dict[str, Any], right: dict[str, Any]) -> tuple[Change, ...]:
    """What differs, in the order of the first; what only the second has comes after."""
    return tuple(
        Change(name, _text(left, name), _text(right, name))
        for name in dict.fromkeys((*left, *right))
        if name not in left or name not in right or not _same(left[name], right[name])
    )


def _same(left: Any, right: Any) -> bool:
    # 1 == True and 1 == 1.0 for Python; to JSON only the second pair is one value
    return bool(canonical.encode(left) == canonical.encode(right))


def _text(values: dict[str, Any], name: str) -> str | None:
    return canonical.encode(values[name]).decode() if name in values else None


def leaves(value: Any, above: str = "") -> dict[str, Json]:
    """The leaves of an object by their paths; lists are leaves."""
    found: dict[str, Json] = {}
    for name, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(inner, dict) and inner:
            found.update(leaves(inner, f"{above}{name}."))
        else:
            found[f"{above}{name}"] = inner
    return found


def _commits(left: Row, right: Row, repository: Path) -> Section:
    one, two = (row.dependency("source")["digest"]["gitCommit"] for row in (left, right))
    if one == two:
        return Section("commits", ())
    range_of = Change("commit", canonical.encode(one).decode(), canonical.encode(two).decode())
    absent = [commit for commit in (one, two) if not _in_clone(repository, commit, "commit")]
    if absent:
        return Section("commits", (range_of,), f"this clone does not have {', '.join(absent)}")
    only_left, only_right = history.between(repository, one, two, _COMMITS)
    named = [Change(each.id, canonical.encode(each.subject).decode(), None) for each in only_left]
    named += [Change(each.id, None, canonical.encode(each.subject).decode()) for each in only_right]
    return Section("commits", (range_of, *named))


def _files(left: Row, right: Row, repository: Path) -> Section:
    one, two = (row.dependency("source")["digest"]["gitTree"] for row in (left, right))
    if one == two:
        return Section("files", ())
    if not all(_in_clone(repository, tree, "tree") for tree in (one, two)):
        trees = Change("tree", canonical.encode(one).decode(), canonical.encode(two).decode())
        return Section("files", (trees,), "this clone does not have both trees")
    return Section(
        "files",
        tuple(
            Change(each.path, _quoted(each.before), _quoted(each.after))
            for each in history.changed_files(repository, one, two)
        ),
    )


def _quoted(text: str | None) -> str | None:
    return None if text is None else canonical.encode(text).decode()


def _in_clone(repository: Path, name: str, kind: str) -> bool:
    # A record is input from outside: an id only, never something that git could read as an option.
    return set(name) <= set("0123456789abcdef") and history.has(repository, name, kind)


def _packages(left: Row, right: Row) -> Section:
    """Packages added, removed and changed, from what was installed; the lock file's digest where only that differs."""
    found: tuple[Change, ...] = ()
    note = None
    try:
        one, two = _installed(left), _installed(right)
        found = _changes({name: v for name, (v, _) in one.items()}, {name: v for name, (v, _) in two.items()})
        found += tuple(
            Change(f"{name} (its files)", _quoted(one[name][1]), _quoted(two[name][1]))
            for name in one
            if name in two and one[name][0] == two[name][0] and one[name][1] != two[name][1]
        )
    except MirageError as error:
        note = f"what was installed cannot be read: {error.message}"
    if not found or note:
        found += _changes(_lock(left), _lock(right))
    if note and not found:
        note = None  # the same lock: the same packages
    return Section("packages", found, note)


def _installed(row: Row) -> dict[str, tuple[str, str]]:
    """The installed packages: version, and the digest of the list of files (a wheel of another platform differs)."""
    digest = row.byproduct("environment.json")
    packages = [] if digest is None else canonical.decode(read_verified(row.store, digest))
    return {
        str(item["name"]): (str(item["version"]), str(item.get("record")))
        for item in (packages if isinstance(packages, list) else ())
        if isinstance(item, dict)
    }


def _lock(row: Row) -> dict[str, Json]:
    lock = row.dependency("lock")
    return {"lock file": str(lock.get("uri", "")).rpartition("#")[2], "lock digest": lock["digest"]["sha256"]}


def _settings(row: Row) -> dict[str, Json]:
    external, internal = row.definition["externalParameters"], row.definition["internalParameters"]
    names = (
        "project",
        "projectPath",
        "configPath",
        "workflow",
        "entrypoint",
        "network",
        "gpus",
        "secretNames",
    )
    found = {name: external.get(name) for name in names}
    return {
        **found,
        **leaves(external.get("env"), "env."),
        **{n: internal.get(n) for n in ("threads", "seed")},
    }


def _base(row: Row) -> dict[str, Json]:
    base, internal = row.dependency("base-image"), row.definition["internalParameters"]
    return {
        "name": base.get("annotations", {}).get("name"),
        "source": base.get("uri"),
        "digest": base.get("digest", {}).get("sha256"),
        "python": internal.get("python"),
        "platform": internal.get("platform"),
    }


def _inputs(row: Row) -> dict[str, Json]:
    return {
        item["name"].removeprefix("input:"): f"{item['annotations']['id']} sha256:{item['digest']['sha256']}"
        for item in row.definition["resolvedDependencies"]
        if item["name"].startswith("input:")
    }


def _hardware(row: Row) -> Any:
    return row.details.get("mirage_hardware", {})


def _builder(row: Row) -> dict[str, Json]:
    built = row.details["builder"]
    return {"builder": built["id"], **built.get("version", {})}


def _internal(row: Row, name: str) -> Any:
    return row.definition["internalParameters"].get(name, {})


def _result(row: Row) -> dict[str, Json]:
    told = row.recorded()
    return {name: told[name] for name in ("status", "exit_code", "reason", "seconds")}


def _outputs(row: Row) -> dict[str, Json]:
    """Outputs by kind and name, with their versions: two runs rarely give the same version."""
    found: dict[str, Json] = {}
    for item in row.result["outputs"]:
        name, _, _ = str(item["id"]).rpartition(":")
        while name in found:
            name += " (again)"
        found[name] = f"{item['id']} {item['digest']}"
    return found


def to_json(left: Row, right: Row, sections: tuple[Section, ...]) -> dict[str, Json]:
    """The object that `mirage diff --json` prints."""
    return {
        "a": left.run_id,
        "b": right.run_id,
        "differences": [
            {
                "section": section.title,
                "note": section.note,
                "changes": [
                    dict(zip(("name", "a", "b"), _named(each), strict=True)) for each in section.changes
                ],
            }
            for section in sections
        ],
    }


def _named(change: Change) -> Iterator[Json]:
    yield change.name
    yield from change.values()
