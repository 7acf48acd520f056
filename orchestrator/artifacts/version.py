"""Artifact versions: the manifest of an artifact, publishing it once and for all, and finding it by id.

A version is an object created at most once (Store.create), so two publishers never get the same one and a
published one never changes. The manifest says nothing of run or time: equal content gives an equal digest.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.artifacts import alias, tombstone
from orchestrator.artifacts.tree import check_path
from orchestrator.canonical import Json
from orchestrator.digest import CHUNK, Digest, of_bytes, of_file, parse_digest
from orchestrator.errors import ArtifactError, MirageError, StoreError, did_you_mean
from orchestrator.image.oci import timestamp
from orchestrator.ports import Store
from orchestrator.reference import KINDS, ArtifactRef, auto_version, check_name, parse_artifact

_SCHEMA = "mirage-artifact/1"
# How far back an earlier try of a save is looked for: others publish while nobody follows its run.
_LOOK_BACK = 1000
# A tree of tree.MAX_FILES entries with long names; a manifest holds the user's metadata (1 MiB at most).
MAX_TREE = 1 << 30
MAX_MANIFEST = 16 << 20


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

    @property
    def description(self) -> str:
        """What its metadata says of it in words, or nothing."""
        found = json.loads(self.metadata).get("description")
        return found if isinstance(found, str) else ""

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


def publish(
    store: Store,
    manifest: Manifest,
    version: str | None,
    run: str | None,
    *,
    attempt: str | None = None,
    again: bool = False,
) -> Version:
    """Publish under ``version``, or under the next free `vN`; equal content gets the newest's version.

    The manifest's blob is kept first, whatever happens next. ``attempt`` names this very save, and ``again`` says that
    it may have been tried before: it then finds what it had published. Raises VersionExists where a custom version
    holds other content, ArtifactError for a `vN` out of turn. Whatever is returned is durable.
    """
    digest = store.put(manifest.encode())
    pointer = _Pointer(digest, run, timestamp(int(time.time())), attempt)
    newest = newest_number(store, manifest.kind, manifest.name)
    if version is not None:
        _check_version(store, manifest, version, newest)
        return _publish_as(store, manifest, version, pointer)
    if newest:
        ref = ArtifactRef(manifest.kind, manifest.name, f"v{newest}")
        existing = _pointer(store, ref)
        if existing.digest == digest and tombstone.find(store, ref) is None:
            return _durable(store, ref, existing, manifest)
    if again and attempt is not None and (made := _tried(store, manifest, newest, attempt)) is not None:
        return made
    number = newest + 1
    while True:
        try:
            return _publish_as(store, manifest, f"v{number}", pointer)
        except VersionExists:
            number += 1  # another publisher was faster


def _tried(store: Store, manifest: Manifest, newest: int, attempt: str) -> Version | None:
    """What an earlier try of a save had published before its process died, under whatever others made since."""
    for number in range(newest, max(0, newest - _LOOK_BACK), -1):
        ref = ArtifactRef(manifest.kind, manifest.name, f"v{number}")
        try:
            existing = _pointer(store, ref)
        except ArtifactError:
            continue  # it was removed by hand
        except StoreError as error:
            if error.away or isinstance(error.__cause__, OSError):
                raise
            continue  # it is damaged: to be told by whoever wants that version
        if existing.attempt == attempt and tombstone.find(store, ref) is None:
            return _durable(store, ref, existing, read_manifest(store, existing.digest))
    return None


def _publish_as(store: Store, manifest: Manifest, version: str, pointer: _Pointer) -> Version:
    ref = ArtifactRef(manifest.kind, manifest.name, version)
    if store.create(_key(ref), pointer.encode(manifest)):
        return Version(ref, pointer.digest, manifest, pointer.created, pointer.run)
    existing = _pointer(store, ref)
    if existing.digest == pointer.digest:
        _check_standing(store, ref)
        return Version(ref, existing.digest, manifest, existing.created, existing.run)
    raise VersionExists(
        f"{ref} exists already with other content ({existing.digest}, made by {existing.run or 'hand'}); "
        f"this content is kept in the store as {pointer.digest}",
        hint="versions never change: choose another version, or leave it out to get the next vN",
    )


def _durable(store: Store, ref: ArtifactRef, existing: _Pointer, manifest: Manifest) -> Version:
    """A version that was only seen: whoever made it may not have come to its sync yet."""
    store.create(_key(ref), existing.encode(manifest))
    return Version(ref, existing.digest, manifest, existing.created, existing.run)


def _check_standing(store: Store, ref: ArtifactRef) -> None:
    """ArtifactError where a version was given up: who did it, when and why."""
    gone = tombstone.find(store, ref)
    if gone is not None:
        here = [each for each in versions(store, ref.kind, ref.name) if each != ref.version][-10:]
        raise ArtifactError(
            str(gone),
            hint="its name is not given again"
            + (
                f"; other versions are: {', '.join(here)}"
                if here
                else ": publish the content under another one"
            ),
        )


def _check_version(store: Store, manifest: Manifest, version: str, newest: int) -> None:
    """A version of the publisher's own choice must leave `latest`, aliases and the count of `vN` alone."""
    check_name(version, "version")
    if version == "latest":
        raise ArtifactError(
            "`latest` is not a version: it always means the newest vN", hint="leave the version out"
        )
    number = auto_version(version)
    if number is None and alias.current(store, manifest.kind, manifest.name, version) is not None:
        raise ArtifactError(
            f"{version} is an alias of {manifest.kind}:{manifest.name}, and cannot be a version as well",
            hint="choose another version, or leave it out",
        )
    if number is not None and number > newest + 1:
        raise ArtifactError(
            f"{version} is out of turn: the next automatic version is v{newest + 1}",
            hint="leave the version out, or choose one that is not of the form vN",
        )


@dataclass(frozen=True)
class _Pointer:
    """What a version's object says."""

    digest: Digest
    run: str | None
    created: str
    attempt: str | None

    def encode(self, manifest: Manifest) -> bytes:
        pointer: Json = {
            "schema": "mirage-version/1",
            "digest": self.digest,
            "size": manifest.size,
            "created": self.created,
            "run": self.run,
            "attempt": self.attempt,
            "writer": f"uid-{os.getuid()}",
        }
        return canonical.encode(pointer)


def _pointer(store: Store, ref: ArtifactRef) -> _Pointer:
    data = store.read(_key(ref))
    if data is None:
        raise ArtifactError(f"there is no artifact {ref} in the store {store.location}")
    try:
        item = json.loads(data)
        run, attempt = item.get("run"), item.get("attempt")
        return _Pointer(
            parse_digest(item["digest"]),
            None if run is None else str(run),
            str(item["created"]),
            None if attempt is None else str(attempt),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError) as error:
        raise StoreError(
            f"the pointer of {ref} in the store {store.location} is damaged: {error!r}",
            hint="restore that file from another copy of the store",
        ) from error


def _key(ref: ArtifactRef) -> str:
    return f"refs/{ref.kind}/{ref.name}/{ref.version}.json"


def newest_number(store: Store, kind: str, name: str) -> int:
    """The highest N of the versions `vN`, 0 where there is none."""
    return max((auto_version(v) or 0 for v in versions(store, kind, name)), default=0)


def versions(store: Store, kind: str, name: str) -> list[str]:
    """The versions of one artifact: custom ones in bytewise order, then `vN` by number."""
    keys = store.keys(f"refs/{kind}/{name}/")
    found = [key.rpartition("/")[2].removesuffix(".json") for key in keys if key.endswith(".json")]
    return sorted(found, key=lambda version: (auto_version(version) or 0, version))


def every(store: Store) -> list[ArtifactRef]:
    """Every version in the store."""
    found = []
    for key in store.keys("refs/"):
        parts = key.removesuffix(".json").split("/")
        if len(parts) == 4 and parts[1] in KINDS and key.endswith(".json"):
            found.append(ArtifactRef(parts[1], parts[2], parts[3]))
    return found


def standing(store: Store) -> list[ArtifactRef]:
    """Every version in the store that was not given up."""
    gone = tombstone.every(store)
    return [ref for ref in every(store) if ref not in gone]


def resolve(store: Store, text: str) -> Version:
    """The version that an id names; `latest` is the highest `vN` that stands, other aliases are looked up.

    Raises ArtifactError that lists the nearest ids where there is none, or that says why it was removed.
    """
    ref = parse_artifact(text)
    if ref.version == "latest":
        for version in reversed(versions(store, ref.kind, ref.name)):  # of numbers, the highest comes last
            found = ArtifactRef(ref.kind, ref.name, version)
            if auto_version(version) is not None and tombstone.find(store, found) is None:
                return load(store, found)
    elif store.read(_key(ref)) is not None:
        _check_standing(store, ref)
        return load(store, ref)
    else:
        target = alias.current(store, ref.kind, ref.name, ref.version)
        if target is not None:
            meant = ArtifactRef(ref.kind, ref.name, target)
            _check_standing(store, meant)
            return load(store, meant)
    there = [str(known) for known in standing(store)]
    known = versions(store, ref.kind, ref.name)
    here = [each for each in known if f"{ref.kind}:{ref.name}:{each}" in there]
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
    pointer = _pointer(store, ref)
    manifest = read_manifest(store, pointer.digest)
    if (manifest.kind, manifest.name) != (ref.kind, ref.name):
        raise StoreError(
            f"the pointer of {ref} in the store {store.location} leads to {manifest.kind}:{manifest.name}"
        )
    return Version(ref, pointer.digest, manifest, pointer.created, pointer.run)


def read_manifest(store: Store, digest: Digest) -> Manifest:
    """Read an artifact's manifest by digest, verified."""
    data = read_verified(store, digest, limit=MAX_MANIFEST)
    try:
        item = json.loads(data)
        if item["schema"] != _SCHEMA:
            raise ValueError(f"schema {item['schema']!r}")
        kind, entry, size, files = item["kind"], item["entry"], item["size"], item["files"]
        if kind not in KINDS or type(size) is not int or type(files) is not int or min(size, files) < 0:
            raise ValueError("kind, size or files")
        if not isinstance(item["metadata"], dict):
            raise ValueError("metadata")
        return Manifest(
            kind=kind,
            name=check_name(item["name"], "name"),
            format=check_name(item["format"], "format"),
            entry=None if entry is None else check_path(entry),
            tree=parse_digest(item["tree"]),
            size=size,
            files=files,
            metadata=canonical.encode(item["metadata"]).decode(),
        )
    except (ValueError, KeyError, TypeError, RecursionError, MirageError) as error:
        raise StoreError(f"{digest} is not an artifact's manifest: {error!r}") from error


def read_verified(store: Store, digest: Digest, *, limit: int = MAX_TREE) -> bytes:
    """A small blob's bytes; StoreError where they are not what the digest says, or more than ``limit``."""
    with store.open(digest) as source:
        try:
            # piece by piece: what is asked for is made room for, and a small machine has no GiB of it
            pieces = [source.read(min(limit, CHUNK) + 1)]
            while len(pieces[-1]) > CHUNK and (len(pieces) - 1) * CHUNK <= limit:
                pieces.append(source.read(CHUNK + 1))
            data = b"".join(pieces)
        except OSError as error:
            raise StoreError(f"cannot read {digest} in {store.location}: {error.strerror}") from error
    if len(data) > limit:
        raise StoreError(f"{digest} in the store {store.location} is larger than {limit >> 20} MiB")
    if of_bytes(data) != digest:
        raise StoreError(
            f"the store {store.location} holds damaged bytes for {digest} (they hash to {of_bytes(data)})",
            hint="restore the blob from another copy of the store, or publish the artifact again",
        )
    return data


def verify_blob(store: Store, digest: Digest) -> bool:
    """Whether a blob of any size is there and whole."""
    if not store.has(digest):
        return False
    with store.open(digest) as source:
        try:
            return of_file(source) == digest
        except OSError:
            return False
