"""The main job, on one screen: load, snapshot, lock, resolve, key, image, fetch, execute, collect, record.

Reads top to bottom in `run`; each stage lives in the module that its name says. Opens nothing itself: the command
line hands in store, engine, executor and reporter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator import journal as journals
from orchestrator import life, lock, provenance, snapshot
from orchestrator.artifacts import version
from orchestrator.canonical import Json, encode
from orchestrator.config import Config, Project
from orchestrator.errors import ConfigError, SourceError, did_you_mean
from orchestrator.image import assemble, environment, handover
from orchestrator.image.assemble import RunImage
from orchestrator.image.base import Base, Bases
from orchestrator.image.environment import Environment
from orchestrator.image.library import Library
from orchestrator.key import Key, run_key
from orchestrator.life import Interrupts, Sealed
from orchestrator.lock import Lock
from orchestrator.logspool import LogSpool
from orchestrator.plan import Plan
from orchestrator.ports import Engine, Executor, InputMount, Reporter, RunSpec, Sandbox, Store
from orchestrator.reference import new_run_id
from orchestrator.snapshot import Snapshot

GRACE = 10.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Services:
    """What a run works with, opened by the command line."""

    project: Project
    store: Store
    library: Library
    engine: Engine
    executor: Executor
    reporter: Reporter
    folders: journals.RunFolders


@dataclass(frozen=True)
class Request:
    """What one call of `mirage-run` asks for, parsed."""

    config: Config
    overrides: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    no_cache: bool = False


@dataclass(frozen=True)
class Prepared:
    """Everything before the container: names became digests, and the image is in the engine."""

    snapshot: Snapshot
    lock: Lock
    base: Base
    environment: Environment
    image: RunImage
    inputs: tuple[InputMount, ...]
    argv: tuple[str, ...]
    run_key: Key


@dataclass(frozen=True)
class Finished:
    """A run with its record."""

    plan: Plan
    sealed: Sealed
    seconds: tuple[tuple[str, float], ...]


class Stages:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block as part of stage ``name``."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """What was measured so far."""
        return tuple((name, round(value, 4)) for name, value in self._seconds.items())


def run(request: Request, services: Services) -> Finished:
    """Do the whole job. A failed workflow is a result, not an error; errors are for what kept it from running."""
    stages = Stages()
    prepared = prepare(request, services, stages)
    run_id = new_run_id()
    spec = _spec(run_id, request, prepared)
    plan = _plan(run_id, request, prepared, services)
    services.reporter.stage("run", f"{run_id} ({prepared.image.image.digest[:19]})")
    journal = journals.begin(services.folders, run_id, plan.encode())
    try:
        with Interrupts() as interrupts:
            with stages("fetch"):
                journal.write("create")
                handle, sandbox = services.executor.submit(spec)
                plan = _with_sandbox(plan, sandbox, services)
                journals.write_durably(services.folders.of(run_id) / "plan.json", plan.encode())
                journal.write("created", handle=handle)
            with stages("execute"):
                log = services.folders.of(run_id) / "log"
                outbox = life.open_outbox(
                    services.executor, services.store, services.folders, journal, run_id, services.reporter
                )
                with LogSpool(log) as spool:
                    output = services.executor.follow(handle)
                    journal.write("start")
                    services.executor.start(handle)
                    follower = life.Follower(
                        services.executor, handle, journal, outbox, spool, services.reporter
                    )
                    end = follower.follow(output, interrupts, timeout=plan.timeout, grace=plan.grace)
            with stages("record"):
                sealed = life.seal(
                    plan,
                    end,
                    store=services.store,
                    outbox=outbox,
                    spool=spool,
                    log=log,
                    journal=journal,
                    reporter=services.reporter,
                    recovered=False,
                )
                services.executor.cleanup(handle, run_id)
                journal.close()
    finally:
        journal.release()
    return Finished(plan, sealed, stages.seconds())


def prepare(request: Request, services: Services, stages: Stages) -> Prepared:
    """Snapshot, lock, resolve, key and image: everything that a run needs before its container."""
    config, settings = request.config, request.config.settings
    engine, library, reporter = services.engine, services.library, services.reporter
    with stages("snapshot"):
        taken = snapshot.take(services.project.folder, allow_dirty=settings.dirty == "snapshot")
        _check_config(taken, config)
        _check_workflow(taken, settings.workflow)
    with stages("lock"):
        path = lock.choose([os.fsdecode(file.path) for file in taken.files], settings.environment.lock)
        locked = lock.parse(path, snapshot.read_blob(taken, os.fsencode(path)))
    with stages("resolve"):
        inputs = tuple(_resolve(services.store, written) for written in config.inputs)
        bases = Bases(engine, library, services.project.folder, reporter)
        base = bases.resolve(settings.base, bases.platform(), fresh=request.no_cache)
    with stages("image"):
        build = settings.build
        env = environment.provide(
            locked,
            base,
            settings.environment.groups,
            engine=engine,
            library=library,
            handover=lambda: handover.gather(build.ca_bundle, build.index, os.environ),
            network=build.network,
            reporter=reporter,
            fresh=request.no_cache,
        )
        argv = ("python", "-m", settings.workflow, "--config", config.path, *request.extra)
        recipe = assemble.Recipe(settings.project, taken, config, locked, base, env, argv[:5])
        image = assemble.provide(recipe, engine, library, reporter, fresh=request.no_cache)
    key = run_key(
        image.key,
        argv=argv,
        inputs=tuple((item.written, item.digest) for item in inputs),
        env=settings.run.env,
        secrets=settings.run.secrets,
        network=settings.run.network,
        threads=settings.run.threads,
        seed=settings.run.seed,
    )
    return Prepared(taken, locked, base, env, image, inputs, argv, key)


def _check_config(taken: Snapshot, config: Config) -> None:
    """The config that was read must be the one in the commit."""
    for file in taken.files:
        if file.path == config.path.encode():
            if snapshot.read_blob(taken, file.path) != config.raw:
                raise SourceError(f"{config.path} changed while it was read, or git filters its content")
            return
    raise ConfigError(
        f"{config.path} is not part of the commit", hint="is it ignored by git? add it with `git add -f`"
    )


def _check_workflow(taken: Snapshot, workflow: str) -> None:
    """The workflow's module must be in the commit."""
    paths = {os.fsdecode(file.path) for file in taken.files}
    place = workflow.replace(".", "/")
    if f"{place}.py" in paths or f"{place}/__main__.py" in paths:
        return
    modules = sorted(path[:-3].replace("/", ".") for path in paths if path.endswith(".py"))
    raise ConfigError(
        f"the workflow module {workflow} is not in the commit (expected {place}.py)",
        hint=did_you_mean(workflow, modules) or "name it under `workflow:` in .mirage/project.yaml",
    )


def _resolve(store: Store, written: str) -> InputMount:
    found = version.resolve(store, written)
    return InputMount(
        written=written,
        id=str(found.ref),
        digest=found.digest,
        tree=found.manifest.tree,
        entry=found.manifest.entry,
        format=found.manifest.format,
        size=found.manifest.size,
        files=found.manifest.files,
        metadata=found.manifest.metadata,
    )


def _spec(run_id: str, request: Request, prepared: Prepared) -> RunSpec:
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
                    **_fixed_env(request.config, prepared),
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
    )


def _fixed_env(config: Config, prepared: Prepared) -> dict[str, str]:
    """The environment that every run gets, the same on every machine; recorded as it is."""
    threads, seed = str(config.settings.run.threads), str(config.settings.run.seed)
    fixed = {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "HOME": "/mirage/tmp",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "mirage",
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


def _plan(run_id: str, request: Request, prepared: Prepared, services: Services) -> Plan:
    return Plan(
        run_id=run_id,
        begun=time.time(),
        timeout=request.config.settings.run.timeout,
        grace=GRACE,
        installed=prepared.environment.installed,
        definition_json=encode(_definition(request, prepared, services.store)).decode(),
        builder_json=encode(provenance.builder(services.executor.id, services.executor.info())).decode(),
        summary_json=encode(_summary(request, prepared)).decode(),
    )


def _with_sandbox(plan: Plan, sandbox: Sandbox, services: Services) -> Plan:
    """The plan with the sandbox as it was asked of the engine."""
    from dataclasses import replace

    definition = plan.definition()
    assert isinstance(definition, dict)
    internal = definition["internalParameters"]
    assert isinstance(internal, dict)
    internal["sandbox"] = provenance.sandbox_json(sandbox)
    return replace(plan, definition_json=encode(definition).decode())


def _definition(request: Request, prepared: Prepared, store: Store) -> Json:
    """SLSA's buildDefinition: what the user chose, what we set, and everything by digest."""
    taken, settings, config = prepared.snapshot, request.config.settings, request.config
    source = f"git+{taken.remote}" if taken.remote else "git+file"
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
    store.put(config.canonical)
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
        },
        "internalParameters": {
            "runKey": prepared.run_key.digest,
            "imageKey": image.key.digest,
            "envKey": prepared.environment.key,
            "configHash": config.digest,
            "lockKind": prepared.lock.kind,
            "platform": str(prepared.base.platform),
            "python": prepared.base.python.version,
            "determinism": dict(_fixed_env(config, prepared)),
            "threads": settings.run.threads,
            "seed": settings.run.seed,
        },
        "resolvedDependencies": dependencies,
    }


def _summary(request: Request, prepared: Prepared) -> Json:
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


def to_json(plan: Plan, sealed: Sealed, seconds: tuple[tuple[str, float], ...]) -> dict[str, Json]:
    """The object that `mirage-run --json` prints."""
    result = sealed.result
    return {
        "run_id": plan.run_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "reason": result.reason,
        **plan.summary(),
        "outputs": [{"id": o.id, "digest": o.digest, "size": o.size} for o in result.outputs],
        "unpublished": list(result.unpublished),
        "metrics": dict(result.metrics),
        "timing": dict(seconds),
        "record": sealed.record,
    }
