"""The record of a run: an in-toto Statement v1 with SLSA Provenance v1, and the run's result, `run.json`.

Field by field after in-toto/attestation spec/v1 and slsa.dev/spec/v1.0/provenance: names of parameters go to
externalParameters, digests to resolvedDependencies; our extensions carry an underscore. The build type is
described in docs/buildtypes/run/v1.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import orchestrator
from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of
from orchestrator.engine_values import EngineInfo
from orchestrator.errors import ConfigError
from orchestrator.image.oci import timestamp
from orchestrator.ports import Sandbox

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://mirage.flow/buildtypes/run/v1"
BUILDER = "https://mirage.flow/builders/{executor}/v1"
RESULT_SCHEMA = "mirage-run/1"
_LONGEST_NAME = 128

Pairs = tuple[tuple[str, str], ...]


def dependency(
    name: str, uri: str | None, digest: dict[str, str], annotations: dict[str, Json] | None = None
) -> Json:
    """One ResourceDescriptor (in-toto spec/v1/resource_descriptor.md)."""
    found: dict[str, Json] = {"name": name, "digest": dict(digest)}
    if uri:
        found["uri"] = uri
    if annotations:
        found["annotations"] = annotations
    return found


def user_of(environment: Mapping[str, str]) -> dict[str, Json]:
    """Who says to have begun a run: MIRAGE_USER, and nothing where it is not set. Raises ConfigError.

    Never the machine's own name of somebody: a record goes further than its author may think.
    """
    name = environment.get("MIRAGE_USER", "").strip()
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"MIRAGE_USER: expected a name of at most {_LONGEST_NAME} characters, on one line")
    return {"user": name} if name else {}


def sha256(digest: Digest) -> dict[str, str]:
    """A DigestSet of one sha256."""
    return {"sha256": hex_of(digest)}


def builder(executor: str, engine: EngineInfo) -> Json:
    """Who ran it: an id per kind of executor, and the versions beneath."""
    return {
        "id": BUILDER.format(executor=executor),
        "version": {
            "mirage": orchestrator.__version__,
            engine.name: engine.version,
            "engine-api": engine.api_version,
            "runc": engine.runc,
            "kernel": engine.kernel,
            "cgroup": engine.cgroup_version,
            "storage": engine.storage_driver,
            "image-store": engine.image_store,
        },
    }


def sandbox_json(sandbox: Sandbox) -> Json:
    """The effective sandbox in the record's words."""
    words = {
        "user": "user",
        "read_only_rootfs": "readOnlyRootfs",
        "capabilities_dropped": "capDropAll",
        "no_new_privileges": "noNewPrivileges",
        "network": "network",
        "pids": "pids",
        "memory": "memory",
        "cpus": "cpus",
        "shm_size": "shm",
        "seccomp": "seccomp",
        "init": "init",
        "limits_enforced": "limitsEnforced",
        "runtime": "runtime",
    }
    found: dict[str, Json] = {
        words[name]: value for name, value in asdict(sandbox).items() if name != "devices"
    }
    return {**found, "devices": [*sandbox.devices]} if sandbox.devices else found


@dataclass(frozen=True)
class Result:
    """How a run ended and what it left; the JSON parts are canonical text."""

    status: str  # succeeded | failed | interrupted | lost
    exit_code: int | None
    signal: str | None
    reason: str | None
    oom_killed: bool
    started_at: str
    finished_at: str
    seconds: float
    outputs: tuple[ResultOutput, ...]
    metrics: tuple[tuple[str, float | None], ...]
    byproducts: tuple[Byproduct, ...]
    unpublished: tuple[str, ...]
    recovered: bool
    audit_json: str | None = None

    def run_json(self, run_id: str) -> bytes:
        """The result manifest: subject[0] of the record, so that a failed run has a record too."""
        return canonical.encode(
            {
                "schema": RESULT_SCHEMA,
                "run_id": run_id,
                "status": self.status,
                "exit_code": self.exit_code,
                "signal": self.signal,
                "reason": self.reason,
                "oom_killed": self.oom_killed,
                "outputs": [
                    {"id": o.id, "digest": o.digest, "size": o.size, "files": o.files, "format": o.format}
                    for o in self.outputs
                ],
                "unpublished": list(self.unpublished),
                "metrics": dict(self.metrics),
            }
        )


@dataclass(frozen=True)
class ResultOutput:
    """An artifact that the run published, in the order in which it did."""

    id: str
    digest: Digest
    size: int
    files: int
    format: str


@dataclass(frozen=True)
class Byproduct:
    """Something kept beside the outputs: the log, all metrics, the environment's manifest."""

    name: str
    digest: Digest
    annotations: tuple[tuple[str, int | str], ...] = ()


def statement(
    run_id: str,
    definition: Json,
    built_by: Json,
    hardware: Json,
    result: Result,
    run_json: Digest,
    chain: dict[str, Json] | None = None,
) -> bytes:
    """The whole Statement as canonical bytes; ``chain`` is its place in the store's log."""
    subject: list[Json] = [{"name": "run.json", "digest": dict(sha256(run_json))}]
    names: set[str] = set()
    for output in result.outputs:
        if output.id not in names:  # the same content saved twice is one subject: names are unique
            names.add(output.id)
            subject.append(
                {
                    "name": output.id,
                    "digest": dict(sha256(output.digest)),
                    "annotations": {"size": output.size, "files": output.files, "format": output.format},
                }
            )
    byproducts: list[Json] = [
        dependency(item.name, None, sha256(item.digest), dict(item.annotations)) for item in result.byproducts
    ]
    audited = {} if result.audit_json is None else {"mirage_audit": canonical.decode(result.audit_json)}
    return canonical.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": subject,
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": definition,
                "runDetails": {
                    "builder": built_by,
                    "metadata": {
                        "invocationId": f"urn:mirage:run:{run_id}",
                        "startedOn": result.started_at,
                        "finishedOn": result.finished_at,
                    },
                    "byproducts": byproducts,
                    "mirage_result": {
                        "status": result.status,
                        "exitCode": result.exit_code,
                        "signal": result.signal,
                        "reason": result.reason,
                        "oomKilled": result.oom_killed,
                        "durationS": round(result.seconds, 3),
                        "recovered": result.recovered,
                    },
                    "mirage_hardware": hardware,
                    **({} if chain is None else {"mirage_chain": chain}),
                    **audited,
                },
            },
        }
    )


def rfc3339(seconds: float) -> str:
    """A time stamp of the record."""
    return timestamp(int(seconds))
