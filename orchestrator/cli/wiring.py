"""The composition root: opens store, cache, engine and executor for a project and hands them down."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.cli import terminal
from orchestrator.errors import MirageError

if TYPE_CHECKING:
    from orchestrator.catalog import Catalog
    from orchestrator.config import Project, ProjectSettings
    from orchestrator.executors.local_docker import LocalDocker
    from orchestrator.image.base import Bases
    from orchestrator.image.library import Library
    from orchestrator.journal import RunFolders
    from orchestrator.ports import Engine, Reporter, Store
    from orchestrator.prepare import Services
    from orchestrator.recover import Recovery
    from orchestrator.redaction import Secrets
    from orchestrator.trust.claims import Vouching
    from orchestrator.trust.notary import Notary


class EngineSoon:
    """The engine, met in a thread: loading its library and its first answers take longer than all the git before.

    Each call of it waits for that, and raises EngineError where the engine does not answer.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._error: MirageError | None = None
        self._thread = threading.Thread(target=self._meet, daemon=True)
        self._thread.start()

    def _meet(self) -> None:
        try:
            engine = _engine()
            engine.info()
            self._engine = engine
        except MirageError as error:
            self._error = error

    def __getattr__(self, name: str) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return getattr(self._engine or _engine(), name)


def _engine() -> Engine:
    from orchestrator.executors.docker_engine import DockerEngine
    from orchestrator.executors.endpoint import choose

    return DockerEngine(choose(os.environ))


class Workplace:
    """A project with everything that commands open, each opened when first asked for.

    Imports stand in the properties: each command pays only for what it uses.
    """

    def __init__(
        self, project: Project, settings: ProjectSettings, engine_soon: EngineSoon | None = None
    ) -> None:
        self.folder = project.folder
        self.project = project
        self.settings = settings
        self.engine_soon = engine_soon

    @classmethod
    def here(cls) -> Workplace:
        """The project that the current folder lies in. Raises ConfigError, for project.yaml when that is read."""
        from orchestrator.project_folder import find_project

        return _Here(find_project(Path.cwd()))

    @property
    def store_name(self) -> str:
        """What `store:` says."""
        return self.settings.store

    @cached_property
    def reporter(self) -> Reporter:
        """Progress on stderr, for people or as JSON lines."""
        return terminal.reporter()

    @cached_property
    def store(self) -> Store:
        """The project's store."""
        from orchestrator.store.opening import open_store

        # A folder's name is remembered: project.yaml is not read for it.
        s3 = self.settings.s3 if self.store_name.startswith("s3://") else None
        found = open_store(self.store_name, self.folder, s3, self.reporter.warn)
        if hasattr(found, "watcher"):  # a bucket; asked by name, since importing it costs a question its time
            found.watcher = self.reporter
        return found

    @contextmanager
    def writing(self) -> Iterator[Workplace]:
        """The same place, whose store keeps what is written and found in it until this is left."""
        from orchestrator.store.sessions import writing

        with writing(self.store) as store:
            within = Workplace(self.project, self.settings, self.engine_soon)
            within.__dict__["store"] = store  # where cached_property keeps what it was given
            yield within

    @cached_property
    def library(self) -> Library:
        """What was built before."""
        from orchestrator.image.library import Library, cache_folder
        from orchestrator.store.folder import FolderStore

        cache = FolderStore.open_at(cache_folder())
        return Library(cache, self.store, self.settings.bank, self.belief)

    @cached_property
    def belief(self) -> Vouching:
        """Whom to believe what a key led to."""
        from orchestrator.trust.claims import of_project

        settings = self.settings
        folder = None if self.store_name.startswith("s3://") else Path(self.store.location)
        return of_project(
            settings.trust.environments,
            self.project.folder,
            os.environ,
            folder,
            self.notary.signer,
            settings.sign.key,
        )

    @cached_property
    def folders(self) -> RunFolders:
        """The project's runs."""
        from orchestrator.journal import RunFolders

        top = self.folder / ".mirage"
        return RunFolders(runs=top / "runs", open=top / "open")

    @cached_property
    def engine(self) -> Engine:
        """The engine of this machine."""
        return _engine() if self.engine_soon is None else cast("Engine", self.engine_soon)

    @cached_property
    def executor(self) -> LocalDocker:
        """The executor on that engine."""
        from orchestrator.artifacts.inputs import InputCache
        from orchestrator.executors.local_docker import LocalDocker

        inputs = InputCache(self.store, self.project.folder / ".mirage" / "cache" / "trees", self.reporter)
        return LocalDocker(self.engine, self.folders.runs, inputs, self.settings.run.outputs)

    @cached_property
    def catalog(self) -> Catalog:
        """The runs."""
        from orchestrator.catalog import Catalog

        return Catalog(self.store, self.folders, self.reporter)

    @cached_property
    def bases(self) -> Bases:
        """The bases."""
        from orchestrator.image.base import Bases
        from orchestrator.image.handover import gather

        build = self.settings.build
        return Bases(
            self.engine,
            self.library,
            self.project.folder,
            self.reporter,
            handover=lambda: gather(build.ca_bundle, build.index, os.environ),
            network=build.network,
            wanted=self.settings.platform,
        )

    @cached_property
    def recovery(self) -> Recovery:
        """What dead processes left."""
        from orchestrator.recover import Recovery

        return Recovery(
            self.executor,
            self.store,
            self.folders,
            self.reporter,
            self.notary,
            secrets=self.secrets,
            outputs=self.settings.run.outputs,
        )

    @cached_property
    def notary(self) -> Notary:
        """What seals records: the key that is configured, and the store's log."""
        from orchestrator.trust.chosen import lazily
        from orchestrator.trust.notary import Notary

        signer = lazily(self.settings.sign.key, self.project.folder, os.environ)
        memory = self.project.folder / ".mirage" / "cache" / "log.json"
        return Notary(self.store, signer, memory, self.reporter)

    def secrets(self, names: tuple[str, ...]) -> Secrets:
        """The values of secrets, which from now on no line of this process shows. Raises ConfigError."""
        from orchestrator.redaction import NONE

        if not names:
            return NONE
        from orchestrator.secret_sources import gather

        found = gather(names, os.environ)
        terminal.hide(found)
        return found

    def services(self, secrets: Secrets | None = None) -> Services:
        """All that a run works with."""
        from orchestrator.prepare import Services
        from orchestrator.redaction import NONE

        return Services(
            project=self.project,
            store=self.store,
            library=self.library,
            engine=self.engine,
            executor=self.executor,
            reporter=self.reporter,
            folders=self.folders,
            notary=self.notary,
            secrets=NONE if secrets is None else secrets,
            outputs=self.settings.run.outputs,
        )


class _Here(Workplace):
    """A project of which only the folder is known yet: project.yaml is read when more of it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine_soon = None

    @cached_property
    def project(self) -> Project:  # type: ignore[override]  # it is set by those who read it before
        from orchestrator.config import load_project

        return load_project(self.folder)

    @cached_property
    def settings(self) -> ProjectSettings:  # type: ignore[override]
        return self.project.settings

    @cached_property
    def store_name(self) -> str:
        from orchestrator.project_folder import remember_store, remembered_store

        found = remembered_store(self.folder)
        if found is None:
            found = self.settings.store
            remember_store(self.folder, self.project.source, found)
        return found
