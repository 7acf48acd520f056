"""Everything before the container: names become digests, and the image is in the engine.

Owns the order of the stages snapshot, lock, resolve, key and image, and the checks that join two of them.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.artifacts import version
from orchestrator.config import PROJECT_FILE, Config, Project
from orchestrator.errors import ConfigError, SourceError, did_you_mean
from orchestrator.image import assemble, environment
from orchestrator.image.assemble import RunImage
from orchestrator.image.base import Base, Bases
from orchestrator.image.environment import Environment
from orchestrator.image.library import Library
from orchestrator.image.variation import USUAL, Manner
from orchestrator.journal import RunFolders
from orchestrator.key import Key, run_key
from orchestrator.locks import lock
from orchestrator.locks.committed import of_snapshot
from orchestrator.locks.lock import Lock
from orchestrator.ports import Engine, Executor, InputMount, Reporter, Store
from orchestrator.progress import phase
from orchestrator.redaction import NONE, Secrets
from orchestrator.settings import OutputSettings
from orchestrator.source import snapshot
from orchestrator.source.content import read_blob
from orchestrator.source.snapshot import Snapshot
from orchestrator.trust.notary import Notary

if TYPE_CHECKING:
    from orchestrator.image.handover import Handover


@dataclass(frozen=True)
class Services:
    """What a run works with, opened by the command line."""

    project: Project
    store: Store
    library: Library
    engine: Engine
    executor: Executor
    reporter: Reporter
    folders: RunFolders
    notary: Notary
    manner: Manner = USUAL
    secrets: Secrets = NONE
    outputs: OutputSettings = field(default_factory=OutputSettings)


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


class Stages:
    """Seconds by stage, in order."""

    def __init__(self, reporter: Reporter | None = None) -> None:
        self._reporter = reporter
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block as part of stage ``name``."""
        started = time.monotonic()
        try:
            with phase(self._reporter, name):
                yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """What was measured so far."""
        return tuple((name, round(value, 4)) for name, value in self._seconds.items())


def prepare(request: Request, services: Services, stages: Stages) -> Prepared:
    """Snapshot, lock, resolve, key and image: everything that a run needs before its container."""
    config, settings = request.config, request.config.settings
    engine, library, reporter = services.engine, services.library, services.reporter
    with stages("snapshot"):
        ahead = (config.path, PROJECT_FILE, *lock.likely(settings.environment.lock))
        allow_dirty = settings.dirty == "snapshot"
        taken = snapshot.take(services.project.folder, allow_dirty=allow_dirty, ahead=ahead)
        _check_committed(taken, config.path, config.raw)
        _check_committed(taken, PROJECT_FILE, services.project.source)
        _check_workflow(taken, settings.workflow)
    services.executor.check_gpus(settings.run.gpus)
    with stages("lock"):
        locked = of_snapshot(taken, settings.environment)
    build = settings.build

    def hand_over() -> Handover:
        from orchestrator.image import handover  # only a build needs it

        return handover.gather(build.ca_bundle, build.index, os.environ)

    def folder(path: str) -> bytes:
        from orchestrator.image import vcs_source
        from orchestrator.source import beyond

        files = beyond.files(taken, path) if beyond.is_outside(path) else taken.files
        return vcs_source.of_folder(files, path)

    with stages("resolve"):
        inputs = tuple(resolve_input(services.store, written) for written in config.inputs)
        bases = Bases(
            engine,
            library,
            services.project.folder,
            reporter,
            handover=hand_over,
            network=build.network,
            wanted=settings.platform,
            before_pull=functools.partial(services.executor.check_gpus, settings.run.gpus)
            if settings.run.gpus
            else None,
        )
        base = bases.resolve(settings.base, bases.platform(), fresh=request.no_cache)
        if locked.loose:
            from orchestrator.image import resolving

            locked = resolving.provide(
                locked,
                base,
                engine=engine,
                library=library,
                handover=hand_over,
                network=build.network,
                reporter=reporter,
            )
    services.executor.check_gpus(settings.run.gpus, base.env)
    with stages("image"):
        env = environment.provide(
            locked,
            base,
            settings.environment.groups,
            engine=engine,
            library=library,
            handover=hand_over,
            network=build.network,
            reporter=reporter,
            fresh=request.no_cache,
            manner=services.manner,
            folders=folder,
            meanwhile=lambda made: assemble.hold(base, made, engine, library, reporter),
        )
        argv = ("python", "-m", settings.workflow, "--config", config.path, *request.extra)
        title = services.project.settings.project if services.project.named else None
        recipe = assemble.Recipe(title, taken, config, locked, base, env)
        image = assemble.provide(recipe, engine, library, reporter, fresh=request.no_cache)
        for digest in image.image.diff_ids:
            library.bank(digest, "base" if digest in base.image.diff_ids else "layers")
        library.bank(env.installed)
        if env.sbom is not None:
            library.bank(env.sbom)
        for kind, digest in (("base", base.digest), ("env", env.key), ("image", image.key.digest)):
            library.bank_key(kind, digest)
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


def _check_committed(taken: Snapshot, path: str, read: bytes) -> None:
    """A file that was read from disk must be the one in the commit, byte for byte."""
    for file in taken.files:
        if file.path == path.encode():
            if read_blob(taken, file.path) != read:
                raise SourceError(
                    f"{path} on disk is not the file in the commit: it changed just now, or git filters its content",
                    hint="run again; where git converts line ends, add `*.yaml -text` to .gitattributes",
                )
            return
    raise ConfigError(
        f"{path} is not part of the commit", hint=f"is it ignored by git? add it with `git add -f {path}`"
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


def resolve_input(store: Store, written: str) -> InputMount:
    """An id, or an alias, as an input of a run. Raises ArtifactError where the store does not have it."""
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
