"""Tombstones: that a version was given up, by whom, when and why. Its digest stays, and its name is not given again.

`tombstones/<kind>/<name>/<version>.json`, created once, beside the version's own object, which is never removed: the
name stays taken, and what a record says of it stays true. The bytes go with the next `mirage gc`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.artifacts.alias import of_artifact, whose
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.image.oci import timestamp
from orchestrator.ports import Store
from orchestrator.reference import KINDS, ArtifactRef

_SCHEMA = "mirage-tombstone/1"


@dataclass(frozen=True)
class Tombstone:
    """One version's end; ``given_up`` are the runs whose records name it and which were given up knowingly."""

    ref: ArtifactRef
    digest: Digest
    by: str
    at: str
    reason: str
    given_up: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.ref} was removed by {self.by} on {self.at}: {self.reason}"


def key_of(ref: ArtifactRef) -> str:
    """Where a version's tombstone lies."""
    return f"tombstones/{ref.kind}/{ref.name}/{ref.version}.json"


def find(store: Store, ref: ArtifactRef) -> Tombstone | None:
    """The tombstone of a version, or None while it stands. Raises StoreError where it is damaged."""
    data = store.read(key_of(ref))
    if data is None:
        return None
    try:
        item = json.loads(data)
        return Tombstone(
            ref,
            parse_digest(item["digest"]),
            str(item["by"]),
            str(item["at"]),
            str(item["reason"]),
            tuple(map(str, item["givenUp"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError) as error:
        raise StoreError(f"the tombstone of {ref} in {store.location} is damaged: {error!r}") from error


def every(store: Store) -> set[ArtifactRef]:
    """All versions that were given up."""
    found = set()
    for key in store.keys("tombstones/"):
        parts = key.removesuffix(".json").split("/")
        if len(parts) == 4 and parts[1] in KINDS:
            found.add(ArtifactRef(parts[1], parts[2], parts[3]))
    return found


def bury(
    store: Store, ref: ArtifactRef, digest: Digest, reason: str, given_up: tuple[str, ...] = ()
) -> Tombstone:
    """Give a version up. Raises ArtifactError where an alias leads to it, or where it was given up before."""
    if not reason.strip():
        raise ArtifactError("a version is removed with a reason", hint='for example: --reason "wrong labels"')
    held = [
        alias for alias, version in of_artifact(store, ref.kind, ref.name).items() if version == ref.version
    ]
    if held:
        raise ArtifactError(
            f"{ref} cannot be removed: {', '.join(held)} lead{'s' if len(held) == 1 else ''} to it",
            hint=f"move the alias first: mirage artifact tag {ref.kind}:{ref.name}:OTHER {held[0]}",
        )
    made = Tombstone(ref, digest, whose(), timestamp(int(time.time())), reason.strip(), given_up)
    data: dict[str, Json] = {
        "schema": _SCHEMA,
        "digest": digest,
        "by": made.by,
        "at": made.at,
        "reason": made.reason,
        "givenUp": list(given_up),
    }
    if not store.create(key_of(ref), canonical.encode(data)):
        raise ArtifactError(str(find(store, ref)))
    return made
