"""One sealed run: its record, and the flat object that questions are asked of. Reads the store, keeps nothing.

``Row.recorded`` is what the record says and never changes: the index keeps it. ``Row.marked`` is what was said of the
run afterwards. A field that can change after the run was sealed belongs there, as a mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.catalog import marks
from orchestrator.catalog.fields import look_up
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.ports import Store
from orchestrator.reference import RunId
from orchestrator.trust import dsse

_SMALL = 64 << 10


@dataclass(frozen=True)
class Row:
    """One sealed run: its record, parsed when asked."""

    run_id: RunId
    record: bytes
    store: Store

    @property
    def digest(self) -> Digest:
        """The record's digest."""
        return of_bytes(self.record)

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The record's Statement. Raises StoreError where it is damaged."""
        try:
            payload = dsse.payload_of(self.record)
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        found = self._decode(payload)
        try:
            found["predicate"]["runDetails"]["mirage_result"]
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error
        return found

    @property
    def signer(self) -> str | None:
        """The key that the record says it is signed with; whether that is so, `mirage verify` tells."""
        signatures = dsse.unseal(self.record).signatures
        return signatures[0].keyid if signatures else None

    @property
    def definition(self) -> dict[str, Any]:
        """SLSA's buildDefinition."""
        return dict(self.statement["predicate"]["buildDefinition"])

    @property
    def details(self) -> dict[str, Any]:
        """SLSA's runDetails."""
        return dict(self.statement["predicate"]["runDetails"])

    @cached_property
    def result(self) -> dict[str, Any]:
        """run.json, the record's first subject, verified."""
        try:
            digest = parse_digest("sha256:" + str(self.statement["subject"][0]["digest"]["sha256"]))
        except (KeyError, TypeError, IndexError) as error:
            raise self._damaged(error) from error
        return self._decode(_read(self.store, digest))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, verified."""
        digest = parse_digest(self.definition["internalParameters"]["configHash"])
        return self._decode(_read(self.store, digest))

    def dependency(self, name: str) -> dict[str, Any]:
        """One of resolvedDependencies by name; empty where there is none."""
        for item in self.definition["resolvedDependencies"]:
            if item["name"] == name:
                return dict(item)
        return {}

    def byproduct(self, name: str) -> Digest | None:
        """The digest of something kept beside the outputs."""
        for item in self.details.get("byproducts", []):
            if item["name"] == name:
                return parse_digest("sha256:" + str(item["digest"]["sha256"]))
        return None

    @property
    def resumed(self) -> tuple[str, ...]:
        """The ids of the inputs that it had of the run which it resumes."""
        link = self.definition["internalParameters"].get("resumeOf") or {}
        return tuple(map(str, link.get("artifacts", ())))

    def lookup(self, path: str) -> Json:
        """The value of a `--where` path: a field of ``summary``, `metrics.NAME` or `config.A.B`."""
        return look_up(path, self.summary, lambda: self.config)

    def summary(self) -> dict[str, Json]:
        """The run in one flat object: what `mirage ls --json` prints of it."""
        return {**self.recorded(), **self.marked()}

    def marked(self) -> dict[str, Json]:
        """What was said of the run after it was sealed, from the store as it is now."""
        return marks.fold(marks.of_run(self.store, self.run_id))

    def recorded(self) -> dict[str, Json]:
        """What the record says; never changes. Raises StoreError where something is damaged or missing."""
        try:
            return self._recorded()
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise self._damaged(error) from error

    def _recorded(self) -> dict[str, Json]:
        external = self.definition["externalParameters"]
        internal = self.definition["internalParameters"]
        source = self.dependency("source")
        result = self.details["mirage_result"]
        annotations = source.get("annotations", {})
        return {
            "run_id": self.run_id,
            "status": result["status"],
            "exit_code": result["exitCode"],
            "reason": result["reason"],
            "project": external["project"],
            "workflow": external["workflow"],
            "config": external["configPath"],
            "config_digest": internal["configHash"],
            "overrides": external["overrides"],
            "user": internal.get("user"),
            "branch": str(external.get("ref") or "").removeprefix("refs/heads/") or None,
            "commit": source["digest"]["gitCommit"],
            "tree": source["digest"]["gitTree"],
            "dirty": annotations.get("dirty", False),
            "image": _sha256(self.dependency("image")),
            "base": _sha256(self.dependency("base-image")),
            "lock": _sha256(self.dependency("lock")),
            "env_key": internal.get("envKey"),
            "image_key": internal.get("imageKey"),
            "run_key": internal["runKey"],
            "started": self.details["metadata"]["startedOn"],
            "seconds": result["durationS"],
            "inputs": [
                item.get("annotations", {}).get("id")
                for item in self.definition["resolvedDependencies"]
                if item["name"].startswith("input:")
            ],
            "outputs": [item["id"] for item in self.result["outputs"]],
            "metrics": self.result["metrics"],
            "record": self.digest,
            "signer": self.signer,
            "reproduces": (internal.get("reproduces") or {}).get("run"),
            "retry_of": (internal.get("retryOf") or {}).get("run"),
            "resume_of": (internal.get("resumeOf") or {}).get("run"),
        }

    def _decode(self, data: bytes) -> dict[str, Any]:
        try:
            found = canonical.decode(data.decode())
            if not isinstance(found, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        return found

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"the record of {self.run_id} is damaged: {error!r}")


def _sha256(item: dict[str, Any]) -> str | None:
    found = item.get("digest", {}).get("sha256")
    return None if found is None else f"sha256:{found}"


def _read(store: Store, digest: Digest) -> bytes:
    """A blob that is nearly always small, verified; no room is made for the largest there could be."""
    with store.open(digest) as source:
        data = source.read(_SMALL)
    return data if len(data) < _SMALL and of_bytes(data) == digest else read_verified(store, digest)
