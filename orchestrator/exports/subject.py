"""What every export is made of: one run, read from the store once. Knows no format."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts.version import Manifest, Version, read_manifest, read_verified
from orchestrator.catalog.row import Row
from orchestrator.digest import Digest, hex_of, parse_digest
from orchestrator.errors import MirageError
from orchestrator.ports import Store
from orchestrator.reference import parse_artifact

# The one root of all ids that we derive (RFC 9562 section 5.5): the same run has the same ids in every export.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://mirage.flow/")


@dataclass(frozen=True)
class Input:
    """An artifact that the run took in."""

    id: str
    digest: Digest


@dataclass(frozen=True)
class Output:
    """An artifact that the run published; ``manifest`` is None where the store no longer has it."""

    id: str
    digest: Digest
    size: int
    files: int
    format: str
    manifest: Manifest | None

    def version(self, run_id: str) -> Version | None:
        """It as a version, to be copied out."""
        if self.manifest is None:
            return None
        return Version(parse_artifact(self.id), self.digest, self.manifest, "", run_id)


@dataclass(frozen=True)
class Subject:
    """One run; ``told`` is its flat object, ``packages`` what environment.json has, ``base_packages`` Debian's."""

    row: Row
    told: dict[str, Any]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    packages: tuple[dict[str, Any], ...]
    base_packages: tuple[tuple[str, str], ...]

    @property
    def store(self) -> Store:
        """Where it lies."""
        return self.row.store

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.row.run_id)

    @property
    def project(self) -> str:
        """The project's name."""
        return str(self.told["project"])

    @property
    def source(self) -> str | None:
        """The address of the repository, where the record has one."""
        uri = str(self.row.dependency("source").get("uri", "")).removeprefix("git+")
        address = uri.rpartition("@refs/heads/")[0] or uri
        return address if "://" in address and not address.startswith("file:") else None

    @property
    def command(self) -> list[str]:
        """The workflow's command line."""
        return list(map(str, self.row.definition["externalParameters"]["entrypoint"]))

    @property
    def finished(self) -> str:
        """When it ended."""
        return str(self.row.details["metadata"]["finishedOn"])

    def uuid(self, of: str) -> str:
        """A stable id for something of this run."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.run_id}/{of}"))

    def blob(self, name: str) -> bytes | None:
        """A byproduct's bytes; None where there is none."""
        digest = self.row.byproduct(name)
        return None if digest is None else read_verified(self.store, digest)


def read(row: Row) -> Subject:
    """Read a run. Raises StoreError where its record is damaged."""
    told = row.summary()
    inputs = tuple(
        Input(str(item["annotations"]["id"]), parse_digest(f"sha256:{item['digest']['sha256']}"))
        for item in row.definition["resolvedDependencies"]
        if item["name"].startswith("input:")
    )
    outputs: dict[str, Output] = {}
    for item in row.result["outputs"]:
        digest = parse_digest(str(item["digest"]))
        outputs[str(item["id"])] = Output(
            str(item["id"]),
            digest,
            item["size"],
            item["files"],
            str(item["format"]),
            _manifest(row.store, digest),
        )
    return Subject(row, told, inputs, tuple(outputs.values()), _packages(row), _base_packages(row))


def _manifest(store: Store, digest: Digest) -> Manifest | None:
    try:
        return read_manifest(store, digest)
    except MirageError:
        return None


def _packages(row: Row) -> tuple[dict[str, Any], ...]:
    digest = row.byproduct("environment.json")
    found = [] if digest is None else canonical.decode(read_verified(row.store, digest))
    return tuple(item for item in (found if isinstance(found, list) else ()) if isinstance(item, dict))


def _base_packages(row: Row) -> tuple[tuple[str, str], ...]:
    """The base's Debian packages, from what the store keeps of a base under its digest (image/base_shelf.py)."""
    digest = parse_digest(f"sha256:{row.dependency('base-image')['digest']['sha256']}")
    for key in row.store.keys(f"keys/base/{hex_of(digest)}/results/"):
        try:
            found = canonical.decode(row.store.read(key) or b"")
            packages: Any = found["packages"]  # type: ignore[index,call-overload]
            return tuple((str(each), str(version)) for each, version in packages)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return ()
