"""Two artifacts in the store, file by file: the same, near enough, or where they part first."""

from __future__ import annotations

from orchestrator import canonical
from orchestrator.artifacts import tree
from orchestrator.artifacts.tree import TreeEntry
from orchestrator.artifacts.version import Manifest, read_manifest, read_verified
from orchestrator.compare import contents
from orchestrator.compare.difference import Difference, Seen, Tolerance, shown
from orchestrator.compare.text import values
from orchestrator.digest import CHUNK, Digest
from orchestrator.ports import Store


def compare(store: Store, original: Digest, again: Digest, tolerance: Tolerance) -> Difference | None:
    """The difference of two artifacts by the digests of their manifests; None where they mean the same.

    Raises StoreError where the store does not have their bytes, or has others.
    """
    if original == again:
        return None
    old, new = read_manifest(store, original), read_manifest(store, again)
    seen = Seen()
    for found in (_about(old, new), _metadata(old, new, tolerance)):
        seen.add(found)
    entries = tree.parse(read_verified(store, old.tree))
    others = {entry.path: entry for entry in tree.parse(read_verified(store, new.tree))}
    for entry in entries:
        if seen.beyond is not None:
            break
        seen.add(_entry(store, entry, others.pop(entry.path, None), tolerance))
    for path in sorted(others):
        seen.add(Difference(path, "nothing", "a file"))
    return seen.first


def _about(old: Manifest, new: Manifest) -> Difference | None:
    for what, before, after in (("format", old.format, new.format), ("entry", old.entry, new.entry)):
        if before != after:
            return Difference(f"its {what}", shown(before), shown(after))
    return None


def _metadata(old: Manifest, new: Manifest, tolerance: Tolerance) -> Difference | None:
    found = values(canonical.decode(old.metadata), canonical.decode(new.metadata), tolerance)
    return None if found is None else found.at("metadata")


def _entry(store: Store, old: TreeEntry, new: TreeEntry | None, tolerance: Tolerance) -> Difference | None:
    if new is None:
        return Difference(old.path, "a file", "nothing")
    if (old.kind, old.target, old.executable) != (new.kind, new.target, new.executable):
        return Difference(old.path, _kind(old), _kind(new))
    if old.digest is None or new.digest is None or old.digest == new.digest:
        return None
    if max(old.size, new.size) > contents.LIMIT:
        found = _large(store, old.digest, new.digest)
    else:
        found = contents.compare(
            old.path, read_verified(store, old.digest), read_verified(store, new.digest), tolerance
        )
    return None if found is None else found.at(old.path)


def _kind(entry: TreeEntry) -> str:
    words = {"f": "an executable file" if entry.executable else "a file", "d": "a folder"}
    return words.get(entry.kind, f"a link to {entry.target}")


def _large(store: Store, original: Digest, again: Digest) -> Difference | None:
    with store.open(original) as old, store.open(again) as new:
        at = 0
        while True:
            one, two = old.read(CHUNK), new.read(CHUNK)
            found = contents.by_bytes(one, two)
            if found is not None:
                return Difference(f"after byte {at}", found.original, found.again)
            if not one:
                return None
            at += len(one)
