"""Checking a store: every blob hashed, everything that is named looked for; and mending it from another copy.

What is wrong is told by whom it is needed (an artifact's file, a run's log), not by its digest alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

from orchestrator import canonical
from orchestrator.artifacts import alias, tombstone, tree
from orchestrator.artifacts.version import every, read_manifest, read_verified
from orchestrator.digest import CHUNK, Digest, of_bytes, of_file, parse_digest
from orchestrator.errors import MirageError, StoreError
from orchestrator.ports import Reporter, Store
from orchestrator.ports_upkeep import DOUBT
from orchestrator.store.folder import FolderStore
from orchestrator.trust import chain
from orchestrator.upkeep.reach import LISTED, artifacts_of, hexes, payload

MISSING, DAMAGED, MODE, STALE = "missing", "damaged", "mode", "stale"
# What a dead writer left is stale after a week, as when a store is opened.
STALE_AFTER = 7 * 24 * 3600.0
_OWNERS = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: ``what`` is a digest or a key, ``owners`` who needs it (none: nobody)."""

    state: str
    what: str
    owners: tuple[str, ...] = ()
    mended: str = ""  # how, where it was

    def told(self) -> str:
        """In words."""
        who = "; ".join(self.owners) if self.owners else "nothing names it"
        return f"{self.what}  {who}" + (f"  ({self.mended})" if self.mended else "")


@dataclass(frozen=True)
class Report:
    """All findings, and how much was looked at."""

    findings: tuple[Finding, ...]
    blobs: int
    bytes: int

    @property
    def open(self) -> list[Finding]:
        """What is still wrong."""
        return [each for each in self.findings if not each.mended]


class Copy(Protocol):
    """What something may be restored from."""

    @property
    def location(self) -> str:
        """Its name, for messages."""

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob. Raises StoreError where it is not there."""

    def read(self, key: str) -> bytes | None:
        """An object, or None."""


class Check:
    """One look at a store; hashes are remembered, so that a second look costs only what was mended.

    ``banked`` is what the project wants to have of its images in the store (project.yaml, `bank`): where that is not
    there, it is missing.
    """

    def __init__(self, store: Store, reporter: Reporter, banked: Iterable[str] = ("layers", "base")) -> None:
        self._store = store
        self._reporter = reporter
        self._banked = frozenset(banked)
        self._of_bases: set[str] = set()  # the layers of bases, in hex
        self._logged: dict[str, Digest] = {}  # what the log says of records and verdicts
        self._damaged: set[Digest] = set()
        self._there: dict[Digest, int] = {}
        self._findings: dict[tuple[str, str], Finding] = {}

    def run(self, *, repair: bool = False, copies: Sequence[Copy] = ()) -> Report:
        """Look at everything; with ``repair`` mend what can be mended, from ``copies`` where bytes are missing."""
        self._store.insist()
        self._hash_all()
        mended: dict[tuple[str, str], Finding] = {}
        while True:
            self._findings = {}
            for digest in self._damaged:
                self._find(DAMAGED, digest, None)
            self._walk()
            self._folder_only()
            fresh = [each for key, each in self._findings.items() if key not in mended] if repair else []
            done = {(each.state, each.what): how for each in fresh if (how := self._mend(each, copies))}
            for key, how in done.items():
                mended[key] = replace(self._findings[key], mended=how)
            if not done:  # a mended tree may name what could not be seen before
                break
            self._store.flush()
        found = {**{key: each for key, each in self._findings.items() if key not in mended}, **mended}
        if any(each.state in (DAMAGED, MISSING) and not each.mended for each in found.values()):
            with suppress(StoreError):  # whoever publishes it again writes it anew
                self._store.replace(DOUBT, canonical.encode({"seen": os.urandom(8).hex()}))
        order = sorted(
            found.values(), key=lambda each: (bool(each.mended), each.state, each.owners, each.what)
        )
        return Report(tuple(order), len(self._there), sum(self._there.values()))

    def _hash_all(self) -> None:
        size = 0
        for done, (each, whole) in enumerate(self._store.hashed(), 1):
            self._there[each.digest] = each.size
            if not whole:
                self._damaged.add(each.digest)
            size += each.size
            if done % 500 == 0:
                self._reporter.detail(f"{done} blobs, {size >> 20} MiB")

    def _find(self, state: str, what: str, owner: str | None) -> None:
        known = self._findings.get((state, what), Finding(state, what))
        if owner is not None and len(known.owners) < _OWNERS and owner not in known.owners:
            known = replace(known, owners=(*known.owners, owner))
        self._findings[state, what] = known

    def _need(self, digest: Digest, owner: str) -> bool:
        """Note who needs a blob; gives whether it is there and whole."""
        if digest in self._damaged:
            self._find(DAMAGED, digest, owner)
            return False
        if digest not in self._there:
            self._find(MISSING, digest, owner)
            return False
        return True

    def _walk(self) -> None:
        gone = set(tombstone.every(self._store))
        given_up: dict[str, tuple[str, ...]] = {}
        for ref in sorted(gone):
            with self._reading(tombstone.key_of(ref), f"that {ref} was removed"):
                stone = tombstone.find(self._store, ref)
                given_up[str(ref)] = () if stone is None else stone.given_up
        for ref in every(self._store):
            key = f"refs/{ref.kind}/{ref.name}/{ref.version}.json"
            with self._reading(key, f"the version {ref}"):
                digest = parse_digest(json.loads(self._store.read(key) or b"")["digest"])
                if ref not in gone:
                    self._artifact(digest, str(ref))
        for key in self._store.keys("alias/"):
            parts = key.split("/")
            with self._reading(key, f"a move of the alias {':'.join(parts[1:4])}"):
                alias.read_move(self._store, key)
        there = set(self._store.keys("runs/"))
        for key in self._store.keys(chain.FOLDER):
            with self._reading(key, "an entry of the log"):
                entry = chain.parse(self._store.read(key) or b"")
                self._logged[entry.key] = entry.digest
                self._need(entry.digest, f"{entry.key}, which is entry {entry.link.seq} of the log")
                if entry.key not in there and self._store.read(entry.key) is None:
                    self._find(MISSING, entry.key, f"entry {entry.link.seq} of the log")
        for key in self._store.keys("keys/"):
            if "/results/" in key:
                with self._reading(key, f"what a key led to ({key.split('/')[1]})"):
                    self._kept(key)
        for key in self._store.keys("runs/"):
            if key.endswith("/record.json"):
                self._record(key, given_up)
            elif "/verdicts/" in key:
                with self._reading(key, f"a verdict on run {key.split('/')[2]}"):
                    json.loads(payload(self._store.read(key) or b"", key))

    def _kept(self, key: str) -> None:
        """What a key led to: nobody is promised that it is there, but what is there must be whole."""
        data = self._store.read(key) or b""
        json.loads(data)
        kind = key.split("/")[1]
        found = [Digest(f"sha256:{each}") for each in hexes(data)]
        if kind == "base":
            self._of_bases.update(hexes(data))
        if key.startswith(LISTED):
            for each in [each for each in found if each in self._there and each not in self._damaged]:
                found += [Digest(f"sha256:{hex}") for hex in hexes(read_verified(self._store, each))]
        for each in found:
            if each in self._damaged:
                self._find(DAMAGED, each, f"kept for the key {key.split('/')[2][:12]} ({kind})")

    def _record(self, key: str, given_up: dict[str, tuple[str, ...]]) -> None:
        run_id = key.split("/")[-2]
        with self._reading(key, f"the record of run {run_id}"):
            data = payload(self._store.read(key) or b"", key)
            artifacts = artifacts_of(data)
            item = json.loads(data)
            for id, digest in artifacts:
                if run_id not in given_up.get(id, ()):
                    self._artifact(digest, f"{id} of run {run_id}")
            details = item["predicate"]["runDetails"]
            for each in (item["subject"][0], *details["byproducts"]):
                self._need(
                    parse_digest(f"sha256:{each['digest']['sha256']}"), f"{each['name']} of run {run_id}"
                )
            for each in item["predicate"]["buildDefinition"]["resolvedDependencies"]:
                if each["name"] == "config":
                    self._need(
                        parse_digest(f"sha256:{each['digest']['sha256']}"), f"the config of run {run_id}"
                    )
                if each["name"] == "image":
                    for number, layer in enumerate(each["annotations"]["diffIds"]):
                        self._layer(parse_digest(layer), f"layer {number} of the image of run {run_id}")

    def _layer(self, digest: Digest, owner: str) -> None:
        kind = "base" if digest[7:] in self._of_bases else "layers"
        if digest in self._there or kind in self._banked:
            self._need(digest, owner)

    def _artifact(self, digest: Digest, owner: str) -> None:
        if not self._need(digest, f"{owner} (manifest)"):
            return
        try:
            manifest = read_manifest(self._store, digest)
            if self._need(manifest.tree, f"{owner} (tree)"):
                for entry in tree.parse(read_verified(self._store, manifest.tree)):
                    if entry.digest is not None:
                        self._need(entry.digest, f"{owner} {entry.path}")
        except StoreError as error:
            self._find(DAMAGED, digest, f"{owner}: {error.message}")

    def _reading(self, key: str, owner: str) -> _Reading:
        return _Reading(lambda error: self._find(DAMAGED, key, f"{owner}: {error}"))

    def _folder_only(self) -> None:
        if isinstance(self._store, FolderStore):
            for digest in self._store.loose():
                if digest not in self._damaged:
                    self._find(MODE, digest, "it can be written to, or was touched: its bytes are whole")
        count, size = self._store.sweep(STALE_AFTER, pretend=True)
        if count:
            self._find(STALE, "staging/", f"{count} file(s) or upload(s) of dead writers, {size} bytes")

    def _mend(self, finding: Finding, copies: Sequence[Copy]) -> str:
        """Mend one thing; gives how, or nothing where it cannot be."""
        if finding.state == STALE:
            self._store.sweep(STALE_AFTER, pretend=False)
            return "removed"
        if finding.state == MODE and isinstance(self._store, FolderStore):
            return "made read-only" if self._store.tighten(Digest(finding.what)) else ""
        if not finding.what.startswith("sha256:"):
            return self._mend_object(finding.what, copies)
        digest = Digest(finding.what)
        for key in (key for key, logged in self._logged.items() if logged == digest):
            data = self._object(key)
            if of_bytes(data) == digest:
                self._store.remove([digest])
                self._store.put(data)
                return self._restored(digest, len(data), key)
        for copy in copies:
            with suppress(StoreError):
                with copy.open(digest) as source:
                    if of_file(source) != digest:
                        continue
                self._store.remove([digest])  # only now: what is damaged may be all that there is
                with copy.open(digest) as source, self._store.writer() as writer:
                    while piece := source.read(CHUNK):
                        writer.write(piece)
                    made, size = writer.commit()
                if made == digest:
                    return self._restored(digest, size, copy.location)
        if finding.state == DAMAGED and not finding.owners:
            self._store.remove([digest])
            self._damaged.discard(digest)
            self._there.pop(digest, None)
            return "removed: nothing names it"
        return ""

    def _object(self, key: str) -> bytes:
        """An object's bytes; none where they cannot be had, or are not those that were stored."""
        try:
            return self._store.read(key) or b""
        except StoreError:
            return b""

    def _restored(self, digest: Digest, size: int, source: str) -> str:
        self._damaged.discard(digest)
        self._there[digest] = size
        return f"restored from {source}"

    def _mend_object(self, key: str, copies: Sequence[Copy]) -> str:
        """An object from the store's own log, which has the bytes of every record, or from another store."""
        logged = self._logged.get(key)
        if logged is not None and of_bytes(self._object(key)) != logged:
            with suppress(StoreError):
                self._store.replace(key, read_verified(self._store, logged), durable=True)
                return "restored from the log"
        for copy in copies:
            with suppress(StoreError):
                data = copy.read(key)
                if data and data != self._object(key) and self._fits(key, data, logged):
                    self._store.replace(key, data, durable=True)
                    return f"restored from {copy.location}"
        return ""

    def _fits(self, key: str, data: bytes, logged: Digest | None) -> bool:
        """Whether another store's object may stand here: not where it is that of another log."""
        if logged is not None:
            return of_bytes(data) == logged
        try:
            if key.startswith(chain.FOLDER):
                return chain.parse(data).link.log == chain.log_id(self._store)
            json.loads(data)
        except (ValueError, RecursionError):
            return False
        return True


class _Reading:
    """A block that reads one object: whatever is wrong in it is a finding, and no more."""

    def __init__(self, found: Callable[[str], None]) -> None:
        self._found = found

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, MirageError):
            self._found(error.message)
            return True
        if isinstance(
            error, ValueError | KeyError | TypeError | AttributeError | IndexError | RecursionError
        ):
            self._found(f"unreadable: {error!r}")
            return True
        return False
