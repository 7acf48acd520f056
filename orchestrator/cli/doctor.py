"""`mirage doctor`: whether this machine and project are ready, each finding with what to do. Repairs nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.checks import clock, disk, keys, leftovers, network, programs, stores
from orchestrator.checks.finding import FAIL, OK, WARN, Finding
from orchestrator.errors import ConfigError, EngineError, ImageError, MirageError

if TYPE_CHECKING:
    from orchestrator.cli.wiring import Workplace


def examine(open_project: Callable[[], Workplace]) -> list[Finding]:
    """All findings. ``open_project`` opens the project of the current folder; without one, its part is left out."""
    found = [*programs.of_git(), *programs.of_python(), *programs.of_toolkit()]
    try:
        place = open_project()
        name = place.settings.project
    except ConfigError as error:
        found.append(Finding("project", WARN, error.message, error.hint))
        return [
            *found,
            *_checked("engine", _engine_alone),
            *_checked("temporary", lambda: leftovers.of_folders()),
        ]
    found.append(Finding("project", OK, f"{name} in {place.project.folder}"))
    parts: tuple[tuple[str, Callable[[Workplace], Iterable[Finding]]], ...] = (
        ("engine", lambda at: _engine(at.engine)),
        ("base", _base),
        ("store", _store),
        ("disk", _disk),
        ("clock", lambda at: clock.of_store(at.store)),
        ("runs", lambda at: leftovers.of_runs(at.catalog.open_runs())),
        ("containers", _containers),
        ("store", lambda at: leftovers.of_store(at.store)),
        ("temporary", lambda at: leftovers.of_folders()),
        ("keys", lambda at: keys.examine(at.settings.sign.key, at.project.folder, os.environ)),
        (
            "network",
            lambda at: network.examine(at.settings.build.ca_bundle, at.settings.build.index, os.environ),
        ),
    )
    told: set[str] = set()
    for check, look in parts:
        for finding in _checked(check, lambda look=look: look(place)):  # type: ignore[misc]  # bound now, not later
            if finding.state == FAIL and finding.text in told:
                continue  # an engine or a store that does not answer is told once
            told.add(finding.text)
            found.append(finding)
    return found


def _checked(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of one part; what keeps it from looking is one, too."""
    try:
        yield from look()
    except MirageError as error:
        yield Finding(check, FAIL, error.message, error.hint, error.exit_code)


def _engine_alone() -> Iterator[Finding]:
    from orchestrator.executors.docker_engine import DockerEngine
    from orchestrator.executors.endpoint import choose

    yield from _engine(DockerEngine(choose(os.environ)))


def _engine(engine: object) -> Iterator[Finding]:
    from orchestrator.executors.docker_engine import DockerEngine

    assert isinstance(engine, DockerEngine)
    info = engine.info()
    yield from programs.of_engine(info)
    if info.clock_ahead is not None:
        yield clock.judged("the engine", info.clock_ahead, EngineError.exit_code)


def _base(place: Workplace) -> Iterator[Finding]:
    from orchestrator.image.mmdebstrap import find_recipe

    name = place.settings.base
    if any(mark in name for mark in ":/@"):
        yield Finding("base", OK, f"{name}, from a registry")
    elif name.startswith("Dockerfile"):
        if (place.project.folder / name).is_file():
            yield Finding("base", OK, f"{name} of the project")
        else:
            yield Finding(
                "base",
                FAIL,
                f"{name} is not in the project",
                "commit it, or name another base",
                ImageError.exit_code,
            )
    else:
        find_recipe(name, place.project.folder)
        if shutil.which("mmdebstrap") is None:
            yield Finding(
                "base",
                WARN,
                f"{name} is made with mmdebstrap, which is not installed",
                "apt-get install mmdebstrap debian-archive-keyring, or pin a registry's image: mirage base pin IMAGE",
            )
        else:
            yield Finding("base", OK, f"{name}, a recipe for mmdebstrap")


def _store(place: Workplace) -> Iterator[Finding]:
    from orchestrator.store.opening import forget_promises

    forget_promises(place.store_name, place.settings.s3)
    yield from stores.examine(place.store)


def _disk(place: Workplace) -> Iterator[Finding]:
    from orchestrator.executors.endpoint import choose
    from orchestrator.image.library import cache_folder
    from orchestrator.store.folder import FolderStore
    from orchestrator.store.s3 import S3Store

    state = place.project.folder / ".mirage"
    places = [
        ("runs and caches of the project", state, "rm -r .mirage/cache frees what comes back by itself")
    ]
    try:
        store = place.store
        if isinstance(store, FolderStore):
            places.insert(0, ("the store", Path(store.location), "mirage gc removes what nothing needs"))
        elif isinstance(store, S3Store):
            places.insert(
                0, ("what is fetched from and pushed to the bucket", store.folder, "free some space")
            )
    except MirageError:
        pass  # that is a finding of its own
    places.append(("the machine's cache", cache_folder(), "mirage gc --machine"))
    places.append(("temporary files", Path(tempfile.gettempdir()), "TMPDIR names another folder"))
    try:
        if choose(os.environ).url.startswith("unix://"):
            root = place.engine.info().data_root
            places.append(
                ("the engine's data", Path(root or "/nonexistent"), "mirage gc --machine; docker system df")
            )
    except EngineError:
        pass  # so is that
    yield from disk.examine(places)


def _containers(place: Workplace) -> Iterator[Finding]:
    opened = frozenset(run_id for run_id, _ in place.catalog.open_runs())
    yield from leftovers.of_engine(place.engine, place.library, place.folders.runs, opened)
