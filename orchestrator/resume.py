"""A run that died or failed, started again with what it had saved: the same commit, lock, config, image and inputs.

The new run has a record of its own that names the one before and what it goes on from (ADR 0025). What the workflow
makes of that is its own part: `artifact.Model.resumed(name)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import fences, provenance
from orchestrator import plan as plans
from orchestrator.attempts import Finished, Link, attempts
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import CannotVerify, ConfigError, MirageError
from orchestrator.interrupts import as_ctrl_c
from orchestrator.journal import RunFolders
from orchestrator.judging import allowance
from orchestrator.judging import reproduce as again
from orchestrator.judging.judgement import Made
from orchestrator.judging.record import Record, key_of, sha256_of
from orchestrator.judging.reproduce import Found
from orchestrator.key import Key
from orchestrator.plan import Plan
from orchestrator.ports import InputMount, RunSpec
from orchestrator.prepare import Services, Stages, resolve_input
from orchestrator.reference import RunId, new_run_id
from orchestrator.run import not_begun
from orchestrator.settings import RunSettings
from orchestrator.store.sessions import hold, writing

# Settings of a run that change nothing of what it computes: who resumes it may give others.
RESOURCES = ("memory", "cpus", "shm_size", "timeout", "gpus")


@dataclass(frozen=True)
class Changes:
    """What is otherwise than in the run that is resumed: ``names`` of RESOURCES, as ``run`` has them.

    ``texts``: the options of `--set` that said so.
    """

    run: RunSettings
    names: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resumable:
    """A sealed run that can be gone on with, and what from: its own record's word, nothing is fetched yet."""

    made: Made
    ids: tuple[str, ...]

    @property
    def record(self) -> Record:
        """Its record."""
        return self.made.record


def resumable(services: Services, record: Record) -> Resumable:
    """A run that ended before its end, having saved something. Raises ConfigError, CannotVerify where it is not so."""
    made = again.original(services, record)
    run_id, status = record.run_id, record.result["status"]
    if record.internal["reproduces"] is not None:
        first = record.internal["reproduces"]["run"]
        raise ConfigError(
            f"{run_id} made {first} again, and what it saved was not published",
            hint=f"mirage reproduce {first}",
        )
    if status == "succeeded":
        raise ConfigError(
            f"{run_id} succeeded: there is nothing left of it to do",
            hint=f"mirage reproduce {run_id} makes it again",
        )
    ids = newest((*record.resumed, *(name for name, _ in made.outputs)))
    if not ids:
        raise ConfigError(
            f"{run_id} had published nothing when it ended ({status}): there is nothing to go on from",
            hint=f"start it anew: mirage-run --config {record.external['configPath']}",
        )
    return Resumable(made, ids)


def newest(ids: Iterable[str]) -> tuple[str, ...]:
    """Of each kind and name the last one, in the order in which these were saved."""
    found: dict[str, str] = {}
    for each in ids:
        name = each.rpartition(":")[0]
        found.pop(name, None)
        found[name] = each
    return tuple(found.values())


def require_fences(record: Record, here: RunSettings, folders: RunFolders, given: frozenset[str]) -> None:
    """Whether the record asks for no weaker fences than this project, ``given`` options, or the run's own start here.

    A record comes from a store that others write to; one that was begun in this very project was allowed then.
    Raises CannotVerify.
    """
    try:
        begun = plans.parse((folders.of(record.run_id) / "plan.json").read_bytes())
        if begun.definition() == record.definition:
            return
    except (OSError, MirageError):
        pass
    refused = {k: v for k, v in allowance.loosened(record, here).items() if k not in given}
    if refused:
        raise CannotVerify(
            f"{record.run_id} was begun elsewhere, and asks for weaker fences than this project allows: "
            + ", ".join(f"{key}={value}" for key, value in refused.items()),
            hint="where you trust whoever began it: allow it in project.yaml, under run, or give --network as it had it, "
            "and --gpus or --set mirage.run.memory=... as you want them",
        )


def resume(
    found: Resumable,
    changes: Changes,
    services: Services,
    *,
    retries: int,
    started: Callable[[RunId], None] | None = None,
) -> Finished:
    """Start it again, to a sealed record; as ``run.run`` does. Raises CannotVerify where its image cannot be had."""
    services.notary.ready()
    stages, record = Stages(services.reporter), found.record
    try:
        with as_ctrl_c(), writing(services.store) as store:
            banked = replace(services, store=store, library=services.library.banking(store))
            with stages("resolve"):
                resumed = tuple(resolve_input(store, each) for each in found.ids)
            with stages("image"):
                image = again.find_image(banked, record, anew=False)
            key = _image_key(services, record, image)
            run_id = new_run_id()
            hold(store, run_id, "prepared", _needs(record, resumed, image))
    except KeyboardInterrupt as error:
        raise not_begun() from error

    def made(run_id: RunId, before: Link | None) -> tuple[RunSpec, Plan]:
        spec = _spec(services, record, image, resumed, changes, run_id)
        services.reporter.stage("run", f"{run_id} resumes {record.run_id} from {', '.join(found.ids)}")
        definition = _definition(services, found, spec, image, changes, key, before)
        summary = _summary(record, spec, definition, image)
        return spec, again.plan_of(services, record, spec, image, definition, summary)

    return attempts(run_id, made, services, stages, retries=retries, started=started)


def _image_key(services: Services, record: Record, image: Found) -> Key:
    if image.rebuilt is not None:
        return image.rebuilt.prepared.image.key
    digest = parse_digest(record.internal["imageKey"])
    manifest = services.library.manifest("image", digest)
    if manifest is None:
        raise CannotVerify(
            f"what the image's key {digest} was made of is kept neither in the store nor on this machine",
            hint=f"mirage verify {record.run_id}",
        )
    return Key(digest, manifest)


def _needs(record: Record, resumed: tuple[InputMount, ...], image: Found) -> tuple[Digest, ...]:
    """What the store must keep until the run has its record, beyond what the first one's record names."""
    layers = () if image.rebuilt is None else image.rebuilt.prepared.image.image.diff_ids
    return (*(each.digest for each in resumed), *map(sha256_of, record.inputs), *layers)


def _spec(
    services: Services,
    record: Record,
    image: Found,
    resumed: tuple[InputMount, ...],
    changes: Changes,
    run_id: RunId,
) -> RunSpec:
    given: dict[str, Any] = {
        name: getattr(changes.run, name) for name in changes.names - {"timeout"}
    }  # a timeout is the follower's part, not the executor's
    return replace(again.spec_of(services, record, image, run_id), resumed=resumed, **given)


def _definition(
    services: Services,
    found: Resumable,
    spec: RunSpec,
    image: Found,
    changes: Changes,
    key: Key,
    before: Link | None,
) -> dict[str, Any]:
    """The first run's buildDefinition with what is of this one: what it goes on from, and its resources."""
    record = found.record
    definition = again.definition_of(services, record, spec, image)
    external, internal = definition["externalParameters"], definition["internalParameters"]
    external["gpus"] = [*spec.gpus]
    external["overrides"] = [*external["overrides"], *changes.texts]
    if "timeout" in changes.names:
        internal["timeout"] = changes.run.timeout
    internal["retryOf"] = None if before is None else {"run": before[0], "record": before[1]}
    internal["resumeOf"] = {"run": record.run_id, "record": record.digest, "artifacts": [*found.ids]}
    named = {f"input:{written}" for written in external["inputs"]}
    definition["resolvedDependencies"] = [
        *(
            item
            for item in definition["resolvedDependencies"]
            if not item["name"].startswith("input:") or item["name"] in named
        ),
        *(
            provenance.dependency(
                f"input:{item.id}", f"mirage:{item.id}", provenance.sha256(item.digest), {"id": item.id}
            )
            for item in spec.resumed
            if f"input:{item.id}" not in named
        ),
    ]
    internal["runKey"] = key_of(definition, key).digest
    return definition


def _summary(record: Record, spec: RunSpec, definition: dict[str, Any], image: Found) -> dict[str, Json]:
    """What `--json` says of the run besides its result, as of any other (definition.py)."""
    external, internal = definition["externalParameters"], definition["internalParameters"]
    parts = {item["name"]: item for item in definition["resolvedDependencies"]}
    source, run_image, base = parts["source"], parts["image"], parts["base-image"]
    known = run_image["annotations"]
    ref = str(external["ref"] or "").removeprefix("refs/heads/")
    return {
        "project": external["project"],
        "image": {
            "digest": sha256_of(run_image),
            "config_digest": known["configDigest"],
            "engine_id": known["engineId"],
            "key": internal["imageKey"],
            "cached": image.rebuilt is None,
        },
        "run_key": internal["runKey"],
        "commit": source["digest"]["gitCommit"],
        "tree": source["digest"]["gitTree"],
        "dirty": source["annotations"]["dirty"],
        "branch": ref or None,
        "lock": {"file": parts["lock"]["uri"].rpartition("#")[2], "digest": sha256_of(parts["lock"])},
        "config": {"file": external["configPath"], "digest": internal["configHash"]},
        "base": {"name": base["annotations"]["name"], "digest": sha256_of(base)},
        "inputs": [
            {"id": item.id, "digest": item.digest, "size": item.size}
            for item in dict.fromkeys((*spec.inputs, *spec.resumed))
        ],
        "retry_of": internal["retryOf"],
        "resume_of": internal["resumeOf"],
        "fences": [*fences.changed(definition)],
    }
