"""What differs between two artifacts: their files by path, and what is said of them. Reads trees, not files."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.artifacts import tree
from orchestrator.artifacts.version import Version, read_verified
from orchestrator.canonical import Json
from orchestrator.ports import Store


@dataclass(frozen=True)
class Change:
    """One path: ``how`` is added, removed or changed; sizes in bytes, None for what is no file."""

    path: str
    how: str
    before: int | None
    after: int | None
    what: str = ""


@dataclass(frozen=True)
class Differences:
    """Both sides of everything that differs."""

    about: dict[str, tuple[Json, Json]]
    files: tuple[Change, ...]
    unchanged: int

    def counts(self) -> dict[str, int]:
        """How many paths were added, removed, changed, and are as they were."""
        found = {
            how: sum(1 for each in self.files if each.how == how) for how in ("added", "removed", "changed")
        }
        return {**found, "unchanged": self.unchanged}


def compare(store: Store, one: Version, two: Version) -> Differences:
    """What differs. Raises StoreError where a tree is missing or damaged."""
    about: dict[str, tuple[Json, Json]] = {}
    for name, a, b in (
        ("kind", one.manifest.kind, two.manifest.kind),
        ("format", one.manifest.format, two.manifest.format),
        ("size", one.manifest.size, two.manifest.size),
        ("files", one.manifest.files, two.manifest.files),
        ("created", one.created, two.created),
        ("run", one.run, two.run),
    ):
        if a != b:
            about[name] = (a, b)
    before, after = (canonical.decode(each.manifest.metadata) for each in (one, two))
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            about[f"metadata.{key}"] = (before.get(key), after.get(key))
    if one.manifest.tree == two.manifest.tree:
        return Differences(about, (), one.manifest.files)
    left, right = ({e.path: e for e in tree.parse(read_verified(store, v.manifest.tree))} for v in (one, two))
    changes = [_change(path, left.get(path), right.get(path)) for path in sorted({*left, *right})]
    real = tuple(change for change in changes if change is not None)
    return Differences(about, real, len(changes) - len(real))


def _change(path: str, before: tree.TreeEntry | None, after: tree.TreeEntry | None) -> Change | None:
    if before == after:
        return None
    was, now = (None if each is None or each.kind != "f" else each.size for each in (before, after))
    if before is None or after is None:
        return Change(path, "added" if before is None else "removed", was, now)
    if before.kind != after.kind:
        words = {"f": "file", "l": "link", "d": "directory"}
        return Change(path, "changed", was, now, f"{words[before.kind]} -> {words[after.kind]}")
    if before.kind == "l":
        return Change(path, "changed", was, now, f"{before.target} -> {after.target}")
    if before.digest == after.digest:
        return Change(path, "changed", was, now, "executable" if after.executable else "no longer executable")
    return Change(path, "changed", was, now)


def to_json(one: Version, two: Version, found: Differences) -> dict[str, Json]:
    """The object that `mirage artifact diff --json` prints."""
    return {
        "a": {"id": str(one.ref), "digest": one.digest},
        "b": {"id": str(two.ref), "digest": two.digest},
        "about": [{"name": name, "a": a, "b": b} for name, (a, b) in found.about.items()],
        "files": [
            {"path": c.path, "how": c.how, "before": c.before, "after": c.after, "what": c.what}
            for c in found.files
        ],
        "counts": dict(found.counts()),
    }
