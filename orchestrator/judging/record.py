"""A record read back: its bytes, its Statement, and the parts of it by the names that other modules use.

Does not judge it; the form is record_form.py's, the truth verify.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.image.restoring import Wanted
from orchestrator.key import Key, run_key
from orchestrator.ports import Store
from orchestrator.reference import RunId, record_key
from orchestrator.trust import dsse
from orchestrator.trust.dsse import Envelope


@dataclass(frozen=True)
class Record:
    """One run's record."""

    run_id: RunId
    data: bytes

    @property
    def digest(self) -> Digest:
        """The record's digest."""
        return of_bytes(self.data)

    @cached_property
    def envelope(self) -> Envelope:
        """What was signed, and by what. Raises StoreError where it is a damaged envelope."""
        try:
            return dsse.unseal(self.data)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"the record of {self.run_id} is damaged: {error}") from error

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The Statement, of the very bytes that are signed. Raises StoreError where they are no JSON object."""
        try:
            found = canonical.decode(self.envelope.payload)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"the record of {self.run_id} is damaged: {error}") from error
        if not isinstance(found, dict):
            raise StoreError(f"the record of {self.run_id} is damaged: it is no object")
        return found

    @property
    def definition(self) -> dict[str, Any]:
        """SLSA's buildDefinition."""
        return dict(self.statement["predicate"]["buildDefinition"])

    @property
    def external(self) -> dict[str, Any]:
        """What the user chose."""
        return dict(self.definition["externalParameters"])

    @property
    def internal(self) -> dict[str, Any]:
        """What Mirage set."""
        return dict(self.definition["internalParameters"])

    @property
    def details(self) -> dict[str, Any]:
        """SLSA's runDetails."""
        return dict(self.statement["predicate"]["runDetails"])

    @property
    def result(self) -> dict[str, Any]:
        """How it ended."""
        return dict(self.details["mirage_result"])

    @property
    def dependencies(self) -> list[dict[str, Any]]:
        """resolvedDependencies in their order."""
        return list(self.definition["resolvedDependencies"])

    def dependency(self, name: str) -> dict[str, Any]:
        """One of them by name. Raises StoreError."""
        for item in self.dependencies:
            if item["name"] == name:
                return dict(item)
        raise StoreError(f"the record of {self.run_id} names no {name}")

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The inputs among them."""
        return [item for item in self.dependencies if item["name"].startswith("input:")]

    @property
    def resumed(self) -> list[str]:
        """The ids of the inputs that another run had saved which this one resumes, oldest first."""
        return [str(each) for each in (self.internal.get("resumeOf") or {}).get("artifacts", ())]

    def byproduct(self, name: str) -> Digest | None:
        """Something kept beside the outputs."""
        for item in self.details["byproducts"]:
            if item["name"] == name:
                return sha256_of(item)
        return None

    @property
    def run_json(self) -> Digest:
        """The digest of its first subject."""
        return sha256_of(self.statement["subject"][0])


def sha256_of(item: dict[str, Any]) -> Digest:
    """The digest of a descriptor."""
    return parse_digest("sha256:" + str(item["digest"]["sha256"]))


def wanted_image(record: Record) -> Wanted:
    """The run image that a record names."""
    item = record.dependency("image")
    return Wanted(
        key=parse_digest(record.internal["imageKey"]),
        digest=sha256_of(item),
        config_digest=parse_digest(item["annotations"]["configDigest"]),
        diff_ids=tuple(map(parse_digest, item["annotations"]["diffIds"])),
    )


def recorded_key(record: Record, image: Key) -> Key:
    """The run key of what a record says, on an image of this key."""
    return key_of(record.definition, image)


def key_of(definition: dict[str, Any], image: Key) -> Key:
    """The run key of a buildDefinition, on an image of this key."""
    external, internal = definition["externalParameters"], definition["internalParameters"]
    return run_key(
        image,
        argv=tuple(external["entrypoint"]),
        inputs=tuple(
            (item["name"].removeprefix("input:"), sha256_of(item))
            for item in definition["resolvedDependencies"]
            if item["name"].startswith("input:")
        ),
        env=tuple(external["env"].items()),
        secrets=tuple(external["secretNames"]),
        network=external["network"],
        threads=internal["threads"],
        seed=internal["seed"],
    )


def read(store: Store, run_id: RunId) -> Record | None:
    """A run's record as it lies in the store."""
    data = store.read(record_key(run_id))
    return None if data is None else Record(run_id, data)


def read_result(store: Store, record: Record) -> dict[str, Any]:
    """run.json, verified. Raises StoreError."""
    try:
        found = canonical.decode(read_verified(store, record.run_json))
        if not isinstance(found, dict) or not isinstance(found["outputs"], list):
            raise ValueError("another form")
        if not isinstance(found["metrics"], dict):
            raise ValueError("another form of metrics")
    except (ValueError, KeyError, RecursionError) as error:
        raise StoreError(f"the result of {record.run_id} is damaged: {error!r}") from error
    return found
