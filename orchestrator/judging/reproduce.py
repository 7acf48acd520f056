"""A run made again from its record: the same image by digest, the same inputs, command, environment and sandbox.

The new run has a record of its own that names the original; what it saves takes no versions. Judged in judgement.py.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, cast

from orchestrator import attempts, canonical, provenance
from orchestrator.artifacts.version import Manifest, read_manifest
from orchestrator.canonical import Json
from orchestrator.definition import GRACE
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import CannotVerify, EngineError, ImageError, Interrupted
from orchestrator.image import restoring
from orchestrator.image.base_image import pairs
from orchestrator.image.restoring import Wanted
from orchestrator.judging import record_form
from orchestrator.judging.blobs import MISSING, OK, Blobs
from orchestrator.judging.judgement import Made, made
from orchestrator.judging.rebuild import Rebuilt, rebuild
from orchestrator.judging.record import Record, read, sha256_of, wanted_image
from orchestrator.plan import Plan
from orchestrator.ports import InputMount, RunSpec
from orchestrator.prepare import Services, Stages
from orchestrator.reference import RunId, new_run_id


@dataclass(frozen=True)
class Found:
    """The image for making a run again: ``origin`` is `engine`, `store`, `registry` or `rebuilt`."""

    origin: str
    engine_id: str
    rebuilt: Rebuilt | None = None

    def equal(self, wanted: Wanted) -> bool:
        """Whether it is the original's image, bit for bit."""
        return self.rebuilt is None or self.rebuilt.digest == wanted.digest


def original(services: Services, record: Record) -> Made:
    """The run to make again, its record well-formed and its inputs whole. Raises CannotVerify where they are not."""
    faults = list(record_form.RECORD(record.statement, ""))
    if faults:
        raise CannotVerify(
            f"the record of {record.run_id} cannot be followed: {faults[0]}",
            hint=f"`mirage verify {record.run_id}` lists everything that is wrong with it",
        )
    blobs = Blobs(services.store)
    for item in record.inputs:
        state, text = blobs.artifact(sha256_of(item))
        if state != OK:
            what = "is not in the store" if state == MISSING else "is damaged in the store"
            raise CannotVerify(
                f"the input {item['annotations']['id']} {what}: {text}",
                hint="restore it from another copy of the store",
            )
    return made(services.store, record)


def find_image(services: Services, record: Record, *, anew: bool) -> Found:
    """The image by digest: from the engine, else from the store's layers, else from a registry that it was pushed
    to, else built again from the commit.

    ``anew`` insists on building. Raises CannotVerify where there is no way to it.
    """
    wanted = wanted_image(record)
    trouble = ""
    if not anew:
        present = restoring.in_engine(services.engine, wanted)
        if present is not None:
            return Found("engine", present)
        try:
            restored, told = _restored(services, record, wanted)
            if restored is not None:
                return Found(told, restored)
            trouble = told
        except ImageError as error:
            trouble = error.message
        services.reporter.warn(f"the image {wanted.digest[:19]} cannot be restored: {trouble}")
    try:
        built = rebuild(services, record, anew=anew)
    except CannotVerify as error:
        if anew:
            raise
        raise CannotVerify(
            f"the image {wanted.digest} is not in the engine, cannot be restored ({trouble}), and cannot be built: "
            f"{error.message}",
            hint=error.hint,
        ) from error
    return Found("rebuilt", built.engine_id, built)


def _restored(services: Services, record: Record, wanted: Wanted) -> tuple[str | None, str]:
    """The engine's id and where it came from, or None with the reason."""
    image, told = restoring.whole(services.store, services.library, wanted, services.reporter)
    if image is None:
        return None, told
    services.reporter.stage("image", f"restoring {wanted.digest[:19]} from {services.store.location}")
    base, environment = sha256_of(record.dependency("base-image")), parse_digest(record.internal["envKey"])
    return restoring.restore(services.engine, services.library, image, wanted, base, environment), told


def again(services: Services, first: Made, found: Found) -> Made:
    """Run it once more, to a sealed record of its own.

    Raises Interrupted where the user ended it, EngineError where it was lost; both are recorded all the same.
    """
    record = first.record
    spec = spec_of(services, record, found, new_run_id())
    plan, withheld = _plan(services, record, spec, found), tuple(first.outputs)
    finished = attempts.whole(
        attempts.attempt(RunId(spec.run_id), spec, plan, services, Stages(), withhold=withheld)
    )
    status = finished.sealed.result.status
    if status == "interrupted":
        raise Interrupted(f"{spec.run_id} was interrupted, and is not judged")
    if status == "lost":
        raise EngineError(f"{spec.run_id} was lost: {finished.sealed.result.reason}", hint="run it again")
    sealed = read(services.store, RunId(spec.run_id))
    assert sealed is not None, "a record that was sealed just now is in the store"
    return made(services.store, sealed)


def spec_of(services: Services, record: Record, found: Found, run_id: RunId) -> RunSpec:
    """What an executor is told to run what a record says once more, under another run id."""
    external, internal = record.external, record.internal
    sandbox = internal["sandbox"]
    env = {**external["env"], **internal["determinism"], "MIRAGE_RUN_ID": run_id}
    # a record may set what a project may not (LD_PRELOAD), and so may the image that it names
    found_image = services.engine.image(found.engine_id)
    set_there = found_image.env if found_image is not None else ()
    services.executor.check_gpus(tuple(external["gpus"]), (*pairs(set_there), *external["env"].items()))
    inputs = {item["name"].removeprefix("input:"): _input(services, item) for item in record.inputs}
    return RunSpec(
        run_id=run_id,
        project=external["project"],
        image_id=found.engine_id,
        argv=tuple(external["entrypoint"]),
        env=tuple(sorted(env.items())),
        inputs=tuple(inputs[written] for written in external["inputs"]),
        network=external["network"],
        memory=sandbox["memory"],
        cpus=sandbox["cpus"],
        gpus=tuple(external["gpus"]),
        shm_size=sandbox["shm"],
        secrets=tuple(external["secretNames"]),
        pids=sandbox["pids"],
        runtime=sandbox.get("runtime"),
        resumed=tuple(inputs[id] for id in record.resumed),
    )


def _input(services: Services, item: dict[str, Any]) -> InputMount:
    digest = sha256_of(item)
    manifest: Manifest = read_manifest(services.store, digest)
    return InputMount(
        written=item["name"].removeprefix("input:"),
        id=item["annotations"]["id"],
        digest=digest,
        tree=manifest.tree,
        entry=manifest.entry,
        format=manifest.format,
        size=manifest.size,
        files=manifest.files,
        metadata=manifest.metadata,
    )


def _plan(services: Services, record: Record, spec: RunSpec, found: Found) -> Plan:
    """The original's definition with what is of this run: sandbox, engine, the original, a rebuilt image."""
    definition = definition_of(services, record, spec, found)
    internal = definition["internalParameters"]
    internal["reproduces"] = {"run": record.run_id, "record": record.digest}
    internal["retryOf"] = None
    return plan_of(services, record, spec, found, definition, {"reproduces": record.run_id})


def definition_of(services: Services, record: Record, spec: RunSpec, found: Found) -> dict[str, Any]:
    """A record's buildDefinition, a copy, with what is of this machine: who asks, the sandbox, the image as it was found."""
    definition = cast("dict[str, Any]", canonical.decode(canonical.encode(cast("Json", record.definition))))
    internal = definition["internalParameters"]
    internal.pop("user", None)
    internal.update(provenance.user_of(os.environ))
    internal["sandbox"] = provenance.sandbox_json(services.executor.sandbox(spec))
    dependencies = {item["name"]: item for item in definition["resolvedDependencies"]}
    dependencies["image"]["annotations"]["engineId"] = found.engine_id
    if found.rebuilt is not None:
        found.rebuilt.enter(internal, dependencies)
    return definition


def plan_of(
    services: Services,
    record: Record,
    spec: RunSpec,
    found: Found,
    definition: dict[str, Any],
    summary: dict[str, Json],
) -> Plan:
    """What whoever seals the record of this new run needs to know of it."""
    installed, sbom = record.byproduct("environment.json"), record.byproduct("sbom.cdx.json")
    if found.rebuilt is not None:
        environment = found.rebuilt.prepared.environment
        installed, sbom = environment.installed, environment.sbom
    assert installed is not None, "the form says that there is one"
    return Plan(
        run_id=spec.run_id,
        store=services.store.location,
        engine=services.executor.info().id,
        begun=time.time(),
        timeout=definition["internalParameters"]["timeout"],
        grace=GRACE,
        installed=installed,
        sbom=sbom,
        definition_json=canonical.encode(definition).decode(),
        builder_json=canonical.encode(
            provenance.builder(services.executor.id, services.executor.info())
        ).decode(),
        summary_json=canonical.encode(summary).decode(),
    )


def kept_digest(found: Found, record: Record) -> Digest:
    """The digest of the image that it was made again with."""
    return found.rebuilt.digest if found.rebuilt is not None else wanted_image(record).digest
