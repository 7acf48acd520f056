"""Artifact versions: the manifest of an artifact, publishing it once and for all, and finding it by id.

A version is an object created at most once (Store.create), so two publishers never get the same one and a
published one never changes. The manifest says nothing of run or time: equal content gives an equal digest.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes, of_file, parse_digest
from orchestrator.errors import ArtifactError, StoreError, did_you_mean
from orchestrator.image.oci import timestamp
from orchestrator.ports import Store
from orchestrator.reference import KINDS, ArtifactRef, auto_version, parse_artifact

_SCHEMA = "mirage-artifact/1"
_LOOK_BACK = 16


@dataclass(frozen=True)
class Manifest:
    """What an artifact is; ``tree`` is the digest of its tree blob, ``size`` the bytes of all its files."""

    kind: str
    name: str
    format: str
    entry: str | None
    tree: Digest
    size: int
    files: int
    metadata: str  # canonical JSON

    def encode(self) -> bytes:
        """The canonical bytes, whose digest is the artifact's digest."""
        return canonical.encode(
            {
                "schema": _SCHEMA,
                "kind": self.kind,
                "name": self.name,
                "format": self.format,
                "entry": self.entry,
                "tree": self.tree,
                "size": self.size,
                "files": self.files,
                "metadata": canonical.decode(self.metadata),
            }
        )


@dataclass(frozen=True)
class Version:
    """A published version: its id, the digest of its manifest, and the manifest."""

    ref: ArtifactRef
    digest: Digest
    manifest: Manifest
    created: str
    run: str | None


class VersionExists(ArtifactError):
    """A custom version is taken by other content."""


def publish(store: Store, manifest: Manifest, version: str | None, run: str | None) -> Version:
    """Publish under ``version``, or under the next free `vN`; equal content gets the version it has.

    The manifest's blob is kept first, whatever happens next. Raises VersionExists where a custom version
    holds other content.
    """
    digest = store.put(manifest.encode())
    if version is not None:
        ref = ArtifactRef(manifest.kind, manifest.name, version)
        if _create(store, ref, digest, manifest, run):
            return Version(ref, digest, manifest, _now(), run)
        existing = load(store, ref)
        if existing.digest == digest:
            return existing
        raise VersionExists(
            f"{ref} exists already with other content ({existing.digest}, made by {existing.run or 'hand'}); "
            f"this content is kept in the store as {digest}",
            hint="versions never change: choose another version, or leave it out to get the next vN",
        )
    while True:
        newest = newest_number(store, manifest.kind, manifest.name)
        for number in range(newest, max(0, newest - _LOOK_BACK), -1):
            existing = load(store, ArtifactRef(manifest.kind, manifest.name, f"v{number}"))
            same_run = run is not None and existing.run == run  # an earlier try of this very save
            if existing.digest == digest and (number == newest or same_run):
                return existing
        ref = ArtifactRef(manifest.kind, manifest.name, f"v{newest + 1}")
        if _create(store, ref, digest, manifest, run):
            return Version(ref, digest, manifest, _now(), run)


def _create(store: Store, ref: ArtifactRef, digest: Digest, manifest: Manifest, run: str | None) -> bool:
    pointer: Json = {
        "schema": "mirage-version/1",
        "digest": digest,
        "size": manifest.size,
        "created": _now(),
        "run": run,
        "nonce": secrets.token_hex(8),
        "writer": f"uid-{os.getuid()}",
    }
    return store.create(_key(ref), canonical.encode(pointer))


def _key(ref: ArtifactRef) -> str:
    return f"refs/{ref.kind}/{ref.name}/{ref.version}.json"


def _now() -> str:
    return timestamp(int(time.time()))


def newest_number(store: Store, kind: str, name: str) -> int:
    """The highest N of the versions `vN`, 0 where there is none."""
    return max((auto_version(v) or 0 for v in versions(store, kind, name)), default=0)


def versions(store: Store, kind: str, name: str) -> list[str]:
    """The versions of one artifact, in bytewise order."""
    return [key.rpartition("/")[2].removesuffix(".json") for key in store.keys(f"refs/{kind}/{name}/")]


def every(store: Store) -> list[ArtifactRef]:
    """Every version in the store."""
    found = []
    for key in store.keys("refs/"):
        parts = key.removesuffix(".json").split("/")
        if len(parts) == 4 and parts[1] in KINDS:
            found.append(ArtifactRef(parts[1], parts[2], parts[3]))
    return found


def resolve(store: Store, text: str) -> Version:
    """The version that an id names; `latest` is the highest `vN`, other aliases are looked up.

    Raises ArtifactError that lists the nearest ids where there is none.
    """
    ref = parse_artifact(text)
    if store.read(_key(ref)) is not None:
        return load(store, ref)
    if ref.version == "latest":
        newest = newest_number(store, ref.kind, ref.name)
        if newest:
            return load(store, ArtifactRef(ref.kind, ref.name, f"v{newest}"))
    for key in reversed(list(store.keys(f"alias/{ref.kind}/{ref.name}/{ref.version}/"))):
        target = json.loads(store.read(key) or b"{}").get("version")
        return load(store, ArtifactRef(ref.kind, ref.name, str(target)))
    there = [str(known) for known in every(store)]
    here = versions(store, ref.kind, ref.name)
    if here:
        hint = f"its versions are: {', '.join(here[-10:])}"
    else:
        hint = did_you_mean(text, there) or (
            f"the store has: {', '.join(there[-10:])}"
            if there
            else "the store is still empty: run what saves it first"
        )
    raise ArtifactError(f"there is no artifact {text} in the store {store.location}", hint=hint)


def load(store: Store, ref: ArtifactRef) -> Version:
    """Read a version and its manifest, verified. Raises StoreError where either is damaged."""
    data = store.read(_key(ref))
    if data is None:
        raise ArtifactError(f"there is no artifact {ref} in the store {store.location}")
    try:
        pointer = json.loads(data)
        digest = parse_digest(pointer["digest"])
        run, created = pointer.get("run"), str(pointer["created"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the pointer of {ref} is damaged: {error!r}") from error
    return Version(ref, digest, read_manifest(store, digest), created, None if run is None else str(run))


def read_manifest(store: Store, digest: Digest) -> Manifest:
    """Read an artifact's manifest by digest, verified."""
    item = json.loads(read_verified(store, digest))
    try:
        if item["schema"] != _SCHEMA:
            raise ValueError(f"schema {item['schema']!r}")
        entry = item["entry"]
        return Manifest(
            kind=str(item["kind"]),
            name=str(item["name"]),
            format=str(item["format"]),
            entry=None if entry is None else str(entry),
            tree=parse_digest(item["tree"]),
            size=int(item["size"]),
            files=int(item["files"]),
            metadata=canonical.encode(item["metadata"]).decode(),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{digest} is not an artifact's manifest: {error!r}") from error


def read_verified(store: Store, digest: Digest) -> bytes:
    """A small blob's bytes; StoreError where they are not what the digest says."""
    with store.open(digest) as source:
        data = source.read()
    if of_bytes(data) != digest:
        raise StoreError(
            f"the store {store.location} holds damaged bytes for {digest} (they hash to {of_bytes(data)})"
        )
    return data


def verify_blob(store: Store, digest: Digest) -> bool:
    """Whether a blob of any size is there and whole."""
    if not store.has(digest):
        return False
    with store.open(digest) as source:
        return of_file(source) == digest
