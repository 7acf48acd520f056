"""A prepared run in words: what the executor is told, SLSA's buildDefinition, and the summary for `--json`.

Owns the environment that every run gets. Opens and changes nothing.
"""

from __future__ import annotations

import os
import time
from typing import Any, cast

from orchestrator import fences, provenance
from orchestrator.canonical import Json, encode
from orchestrator.config import Config
from orchestrator.digest import Digest
from orchestrator.plan import Plan
from orchestrator.ports import Executor, RunSpec, Sandbox
from orchestrator.prepare import Prepared, Request

GRACE = 10.0  # seconds between SIGTERM and SIGKILL


def spec_of(run_id: str, request: Request, prepared: Prepared) -> RunSpec:
    """What the executor is told of the run."""
    settings = request.config.settings
    return RunSpec(
        run_id=run_id,
        project=settings.project,
        image_id=prepared.image.engine_id,
        argv=prepared.argv,
        env=tuple(
            sorted(
                {
                    **dict(settings.run.env),
                    **fixed_env(request.config, prepared),
                    "MIRAGE_RUN_ID": run_id,
                }.items()
            )
        ),
        inputs=prepared.inputs,
        network=settings.run.network,
        memory=settings.run.memory,
        cpus=settings.run.cpus,
        gpus=settings.run.gpus,
        shm_size=settings.run.shm_size,
        secrets=settings.run.secrets,
        pids=settings.run.pids,
        runtime=settings.run.runtime,
    )


def fixed_env(config: Config, prepared: Prepared) -> dict[str, str]:
    """The environment that every run gets, the same on every machine; recorded as it is."""
    threads, seed = str(config.settings.run.threads), str(config.settings.run.seed)
    fixed = {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "HOME": "/mirage/tmp",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "mirage",
        "MIRAGE_AUDIT": "1" if config.settings.run.audit else "0",
        "MIRAGE_CONFIG": config.path,
        "MIRAGE_SEED": seed,
        "MPLCONFIGDIR": "/mirage/tmp/matplotlib",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(prepared.snapshot.commit_time),
        "TMPDIR": "/mirage/tmp",
        "TZ": "UTC",
        "USER": "mirage",
        "XDG_CACHE_HOME": "/mirage/tmp/cache",
    }
    fixed.update({f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")})
    return fixed


def needs(prepared: Prepared, config: Digest) -> tuple[Digest, ...]:
    """What the store must keep until the run has its record, which names it."""
    image = prepared.image.image
    inputs = (item.digest for item in prepared.inputs)
    return (config, prepared.environment.installed, *image.diff_ids, *inputs)


def plan_of(
    spec: RunSpec,
    request: Request,
    prepared: Prepared,
    executor: Executor,
    store: str,
    *,
    retry_of: tuple[str, Digest] | None = None,
) -> Plan:
    """What whoever seals the run's record needs to know of it, this process or a later one.

    ``retry_of``: the run, with its record, that the engine or the machine ended, and that this one makes again.
    """
    definition = cast("dict[str, Any]", _definition(request, prepared, executor.sandbox(spec)))
    link: Json = None if retry_of is None else {"run": retry_of[0], "record": retry_of[1]}
    definition["internalParameters"]["retryOf"] = link
    definition["internalParameters"].update(provenance.user_of(os.environ))
    return Plan(
        run_id=spec.run_id,
        store=store,
        engine=executor.info().id,
        begun=time.time(),
        timeout=request.config.settings.run.timeout,
        grace=GRACE,
        installed=prepared.environment.installed,
        sbom=prepared.environment.sbom,
        definition_json=encode(definition).decode(),
        builder_json=encode(provenance.builder(executor.id, executor.info())).decode(),
        summary_json=encode(
            {
                **_summary(request, prepared),
                "retry_of": link,
                "resume_of": None,
                "fences": [*fences.changed(definition)],
            }
        ).decode(),
    )


def _definition(request: Request, prepared: Prepared, sandbox: Sandbox) -> Json:
    """SLSA's buildDefinition: what the user chose, what we set, and everything by digest."""
    taken, settings, config = prepared.snapshot, request.config.settings, request.config
    # A remote that is a folder of some machine says nothing elsewhere, and may name its user.
    remote = taken.remote if taken.remote and not taken.remote.startswith(("file:", "/", ".")) else None
    source = f"git+{remote}" if remote else "git+file"
    commit = {"gitCommit": taken.commit}
    dependencies: list[Json] = [
        provenance.dependency(
            "source",
            source + (f"@refs/heads/{taken.branch}" if taken.branch else ""),
            {**commit, "gitTree": taken.tree},
            {
                "dirty": taken.dirty,
                "shallow": taken.shallow,
                "baseCommit": taken.base_commit,
                "path": taken.prefix,
            },
        )
    ]
    for module in taken.submodules:
        uri = f"git+{module.url}" if module.url else None
        dependencies.append(
            provenance.dependency(f"submodule:{module.path}", uri, {"gitCommit": module.commit})
        )
    image = prepared.image
    dependencies += [
        provenance.dependency(
            "lock", f"{source}#{prepared.lock.path}", provenance.sha256(prepared.lock.digest)
        ),
        provenance.dependency("config", f"{source}#{config.path}", provenance.sha256(config.digest)),
        provenance.dependency(
            "base-image",
            prepared.base.source,
            provenance.sha256(prepared.base.digest),
            {"name": prepared.base.name},
        ),
        provenance.dependency(
            "image",
            f"pkg:oci/{settings.project}",
            provenance.sha256(image.image.digest),
            {
                "configDigest": image.image.config_digest,
                "manifestDigest": image.image.digest,
                "diffIds": list(image.image.diff_ids),
                "engineId": image.engine_id,
            },
        ),
    ]
    for item in prepared.inputs:
        dependencies.append(
            provenance.dependency(
                f"input:{item.written}", f"mirage:{item.id}", provenance.sha256(item.digest), {"id": item.id}
            )
        )
    return {
        "buildType": provenance.BUILD_TYPE,
        "externalParameters": {
            "source": source,
            "ref": f"refs/heads/{taken.branch}" if taken.branch else None,
            "project": settings.project,
            "projectPath": taken.prefix,
            "configPath": config.path,
            "overrides": list(request.overrides),
            "workflow": settings.workflow,
            "entrypoint": list(prepared.argv),
            "network": settings.run.network,
            "env": dict(settings.run.env),
            "secretNames": [*settings.run.secrets],
            "gpus": [*settings.run.gpus],
            "inputs": [*config.inputs],
            "tolerance": {
                pattern: {"rtol": each.rtol, "atol": each.atol, "ignore": [*each.ignore]}
                for pattern, each in settings.tolerance
            },
        },
        "internalParameters": {
            "runKey": prepared.run_key.digest,
            "imageKey": image.key.digest,
            "envKey": prepared.environment.key,
            "configHash": config.digest,
            "lockKind": prepared.lock.kind,
            "platform": str(prepared.base.platform),
            "python": prepared.base.python.version,
            "determinism": dict(fixed_env(config, prepared)),
            "threads": settings.run.threads,
            "seed": settings.run.seed,
            "timeout": settings.run.timeout,
            "reproduces": None,
            "environment": prepared.environment.origin.to_json(),
            "resumeOf": None,
            "sandbox": provenance.sandbox_json(sandbox),
        },
        "resolvedDependencies": dependencies,
    }


def _summary(request: Request, prepared: Prepared) -> dict[str, Json]:
    """What `--json` says of a run besides its result (design section 5)."""
    image, taken = prepared.image, prepared.snapshot
    return {
        "project": request.config.settings.project,
        "image": {
            "digest": image.image.digest,
            "config_digest": image.image.config_digest,
            "engine_id": image.engine_id,
            "key": image.key.digest,
            "cached": image.cached,
        },
        "run_key": prepared.run_key.digest,
        "commit": taken.commit,
        "tree": taken.tree,
        "dirty": taken.dirty,
        "branch": taken.branch,
        "lock": {"file": prepared.lock.path, "digest": prepared.lock.digest},
        "config": {"file": request.config.path, "digest": request.config.digest},
        "base": {"name": prepared.base.name, "digest": prepared.base.digest},
        "inputs": [{"id": item.id, "digest": item.digest, "size": item.size} for item in prepared.inputs],
    }
