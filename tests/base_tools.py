"""Projects with bases for tests: a real engine that counts, a store that has Mirage's own base, a cache of one's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from orchestrator import process
from orchestrator.engine_values import BuildSpec
from orchestrator.errors import EngineError
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from orchestrator.image.base import DEFAULT, LOCK_FILE, Base, Bases
from orchestrator.image.dockerfile_base import handover_image
from orchestrator.image.handover import Handover, gather
from orchestrator.image.library import Library, cache_folder
from orchestrator.image.loading import tag_of
from orchestrator.image.oci import Platform
from orchestrator.ports import Reporter
from orchestrator.store.folder import FolderStore
from tests.image_tools import Notes


class Spy(DockerEngine):
    """The real engine; remembers what was pulled and built, and can be without a registry."""

    def __init__(self) -> None:
        super().__init__(choose(os.environ))
        self.pulled: list[str] = []
        self.built: list[BuildSpec] = []
        self.made: list[str] = []
        self.offline = False

    def pull(self, reference: str, platform: str | None, reporter: Reporter | None = None) -> None:
        if self.offline:
            raise EngineError(f"cannot pull {reference}: this test has no registry any more")
        self.pulled.append(reference)
        super().pull(reference, platform, reporter)

    def build(self, context: BinaryIO, spec: BuildSpec, reporter: Reporter) -> str:
        self.built.append(spec)
        self.made.append(super().build(context, spec, reporter))
        return self.made[-1]


def machine() -> Handover:
    """What this machine hands over."""
    return gather("auto", "none", os.environ)


@dataclass
class Place:
    """A project in a repository of its own, its store, and a machine with an empty cache."""

    project: Path
    bank: Path
    cache: Path
    engine: Spy = field(default_factory=Spy)
    notes: Notes = field(default_factory=Notes)
    handover: Handover = field(default_factory=machine)
    seen: set[str] = field(default_factory=set)

    @property
    def library(self) -> Library:
        return Library(FolderStore.open_at(self.cache), FolderStore.open_at(self.bank))

    @property
    def bases(self) -> Bases:
        return Bases(self.engine, self.library, self.project, self.notes, handover=lambda: self.handover)

    @property
    def platform(self) -> Platform:
        return self.bases.platform()

    def resolve(self, name: str, *, fresh: bool = False) -> Base:
        return self._seen(self.bases.resolve(name, self.platform, fresh=fresh))

    def pin(self, name: str) -> Base:
        return self._seen(self.bases.pin(name, self.platform))

    def write(self, name: str, text: str) -> None:
        (self.project / name).parent.mkdir(parents=True, exist_ok=True)
        (self.project / name).write_text(text)

    def another_machine(self, cache: Path) -> Place:
        """The same project and store, with another, empty cache."""
        return Place(self.project, self.bank, cache, seen=self.seen)

    def _seen(self, base: Base) -> Base:
        self.seen.add(base.tag)
        return base


def own_base(bank: Path, project: Path, platform: str = "auto") -> Base:
    """Mirage's own base from this machine's cache (built once), published into a store and pinned in a project."""
    engine = Spy()
    library = Library(FolderStore.open_at(cache_folder()), FolderStore.open_at(bank))
    bases = Bases(engine, library, project, Notes(), wanted=platform)
    return bases.pin(DEFAULT, bases.platform())


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """A place whose project pins Mirage's own base; the images that it makes are removed from the engine."""
    project = folder / "project"
    (project / ".mirage").mkdir(parents=True)
    process.run(["git", "init", "-q", str(project)])
    base = own_base(folder / "bank", project)
    made = Place(project, folder / "bank", folder / "cache")
    try:
        yield made
    finally:
        for tag in made.seen - {base.tag}:
            made.engine.remove_image(tag)
        own, machines = made.handover.ca_bundle, machine().ca_bundle
        if own is not None and own != machines:
            made.engine.remove_image(tag_of("handover", handover_image(made.platform, own)[0]))
        shutil.rmtree(folder, ignore_errors=True)


def lock_text(place: Place) -> str:
    """The project's base lock."""
    return (place.project / LOCK_FILE).read_text()
