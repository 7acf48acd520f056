"""What a store still needs: every blob that a version, a run's record, the log, a key or a hold leads to.

Objects are created once, so one that was read is never read again: asking a second time costs only what is new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from orchestrator.artifacts import tombstone
from orchestrator.artifacts.version import MAX_MANIFEST, read_manifest, read_verified
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import MirageError, StoreError
from orchestrator.ports import Store
from orchestrator.reference import ArtifactRef, parse_artifact
from orchestrator.trust import chain, dsse

_HEX = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_TREE_DIGEST = re.compile(rb'"d":"sha256:([0-9a-f]{64})"')
_MANIFEST_BEGINS = b'{"entry":'
# Keys that lead to a list of blobs: an environment's wheels.
LISTED = "keys/wheels/"


class Reach:
    """The digests that are needed, as raw bytes, and by whom; grows with each ``update``."""

    def __init__(self, store: Store, present: Iterable[Digest]) -> None:
        self._store = store
        self._present = {raw(digest) for digest in present}
        self._read: set[str] = set()
        self._expanded: set[Digest] = set()
        self.live: set[bytes] = set()

    def update(self) -> None:
        """Read what is new. Raises StoreError where something cannot be read: nothing may then be removed."""
        # Holds before records, and records before the log: a run that is sealed meanwhile gives up the former only
        # when it has the latter, so it is seen in one of them.
        for key, data in self._new("gc/hold/"):
            self._document(key, data)
        gone = {ref: tombstone.find(self._store, ref) for ref in tombstone.every(self._store)}
        given_up = {str(ref): set(stone.given_up) for ref, stone in gone.items() if stone is not None}
        named = []
        for key, data in self._new("refs/"):
            parts = key.removesuffix(".json").split("/")
            if len(parts) == 4 and ArtifactRef(*parts[1:]) not in gone:
                named.append((key, _pointer(key, data, self._store)))
        self._bring(digest for _, digest in named)
        for key, digest in named:
            self.expand(digest, key)
        for key, data in self._new("runs/"):
            self._sealed(key, data, given_up)
        for key, data in self._new(chain.FOLDER):
            self._entry(key, data, given_up)
        for key, data in self._new("keys/"):
            self._leaves(key.encode())
            if "/signed/" in key:
                with suppress(StoreError):  # what is damaged signs nothing
                    data = payload(data, key)
            found = self._leaves(data)
            if key.startswith(LISTED):
                for each in found:  # the blob that lists the wheels, which nothing else names
                    self._leaves(self._needed(Digest(f"sha256:{each.hex()}"), key))

    def _new(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        new = [key for key in self._store.keys(prefix) if key not in self._read]
        self._read.update(new)
        for key, data in self._store.reads(new):
            yield key, data or b""

    def _bring(self, manifests: Iterable[Digest]) -> None:
        """Bring many manifests and their trees near at once; what is wrong with one is told when it is its turn."""
        new = [each for each in manifests if each not in self._expanded and raw(each) in self._present]
        with suppress(StoreError):
            self._store.fetch(new)
            self._store.fetch(read_manifest(self._store, each).tree for each in new)

    def _leaves(self, data: bytes) -> list[bytes]:
        """Every digest in a text that the store has a blob for."""
        found = [
            each
            for each in map(bytes.fromhex, map(bytes.decode, _HEX.findall(data)))
            if each in self._present
        ]
        self.live.update(found)
        return found

    def _sealed(self, key: str, data: bytes, given_up: dict[str, set[str]]) -> None:
        """A record or verdict: its own bytes, which the log names, and what it leads to.

        A verdict leads to two records, which stand for themselves: what one of them gave up is not kept for it.
        """
        self.live.add(raw(of_bytes(data)))
        if "/verdicts/" in key:
            return
        if not key.endswith("/record.json"):
            self._document(key, data)
            return
        data = payload(data, key)
        self.live.add(raw(of_bytes(data)))
        found = self._leaves(data)
        run_id = key.split("/")[-2]
        lost: set[bytes] = set()
        for id, digest in artifacts_of(data):
            if run_id in given_up.get(id, ()):
                lost.add(raw(digest))  # somebody gave this run up, knowingly
            elif raw(digest) in self._present or "unpublished-" not in id:
                self.expand(digest, f"{id} in the record of {run_id}")
        self.live.difference_update(lost & set(found) - {raw(each) for each in self._expanded})

    def _entry(self, key: str, data: bytes, given_up: dict[str, set[str]]) -> None:
        """An entry of the log: what it names, and where its process died before it made the record, what that needs."""
        self._leaves(data)
        try:
            entry = chain.parse(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"what {key} needs cannot be told: {error}",
                hint="`mirage log verify` and `mirage fsck` say more",
            ) from error
        if entry.key not in self._read and raw(entry.digest) in self._present:
            self._sealed(entry.key, self._needed(entry.digest, key), given_up)

    def _needed(self, digest: Digest, why: str) -> bytes:
        try:
            return read_verified(self._store, digest)
        except StoreError as error:
            raise _untold(why, error) from error

    def _document(self, key: str, data: bytes) -> None:
        """Any other object: what it names, and where that is an artifact's manifest, its files."""
        for each in self._leaves(payload(data, key)):
            digest = Digest(f"sha256:{each.hex()}")
            if self._store.begins(digest, len(_MANIFEST_BEGINS)) != _MANIFEST_BEGINS:
                continue
            self.expand(digest, key)

    def expand(self, digest: Digest, why: str) -> None:
        """An artifact: its manifest, its tree, its files. Raises StoreError that says for whom it was needed."""
        if digest in self._expanded:
            return
        try:
            manifest = read_manifest(self._store, digest)
            data = read_verified(self._store, manifest.tree)
        except StoreError as error:
            raise _untold(why, error) from error
        self._expanded.add(digest)
        self.live.update((raw(digest), raw(manifest.tree)))
        self.live.update(bytes.fromhex(each.decode()) for each in _TREE_DIGEST.findall(data))


def raw(digest: Digest) -> bytes:
    """A digest in 32 bytes: there may be millions."""
    return bytes.fromhex(digest[7:])


def hexes(data: bytes) -> list[str]:
    """Everything in a text that has the form of a digest."""
    return [each.decode() for each in _HEX.findall(data)]


def payload(data: bytes, key: str) -> bytes:
    """A Statement, also where it lies in an envelope; any other object as it is. Raises StoreError for a broken one."""
    try:
        return dsse.payload_of(data)
    except (ValueError, RecursionError) as error:
        raise _untold(key, StoreError(f"it is damaged: {error}")) from error


def _untold(why: str, error: StoreError) -> StoreError:
    return StoreError(
        f"what {why} needs cannot be told: {error.message}",
        hint="`mirage fsck` lists the damage; `mirage fsck --repair --from STORE` mends it from another store",
    )


def artifacts_of(data: bytes) -> list[tuple[str, Digest]]:
    """The artifacts that a record names, inputs and outputs: id and digest. Raises StoreError where it is damaged."""
    try:
        item = json.loads(data)
        found: list[tuple[str, Digest]] = []
        for each in item["subject"]:
            if each["name"].count(":") == 2:
                found.append((str(parse_artifact(each["name"])), _sha256(each)))
        for each in item["predicate"]["buildDefinition"]["resolvedDependencies"]:
            if each["name"].startswith("input:"):
                found.append((str(each["annotations"]["id"]), _sha256(each)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MirageError) as error:
        raise StoreError(
            f"a run's record is damaged: {error!r}",
            hint="`mirage fsck` says which; restore it from another copy",
        ) from error
    return found


def _sha256(item: dict[str, Any]) -> Digest:
    return parse_digest("sha256:" + str(item["digest"]["sha256"]))


def _pointer(key: str, data: bytes, store: Store) -> Digest:
    try:
        if len(data) > MAX_MANIFEST:
            raise ValueError("too long")
        return parse_digest(json.loads(data)["digest"])
    except (ValueError, KeyError, TypeError, RecursionError, StoreError) as error:
        raise StoreError(f"{key} in the store {store.location} is damaged: {error!r}") from error
