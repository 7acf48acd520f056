"""`mirage-run --resume RUN`: which run is meant, whether it can be gone on with, and what may be otherwise this time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import resume as resuming
from orchestrator.cli.orphans import settle_orphans
from orchestrator.cli.wiring import EngineSoon, Workplace
from orchestrator.config import find_project, load_config, load_project
from orchestrator.errors import CannotVerify, ConfigError, MirageError
from orchestrator.judging.record import Record
from orchestrator.resume import RESOURCES, Changes, Resumable
from orchestrator.settings import Layer, apply
from orchestrator.trust import trusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.attempts import Finished
    from orchestrator.canonical import Json
    from orchestrator.catalog import Row
    from orchestrator.cli.detaching import Background
    from orchestrator.config import ProjectSettings
    from orchestrator.reference import RunId


def resume(
    text: str,
    overrides: Sequence[str],
    flags: dict[str, Json],
    engine: EngineSoon,
    background: Background | None,
) -> Finished:
    """Start the run that ``text`` names again, with what it had saved.

    ``flags`` are settings by dotted name from other options. Raises ConfigError, CannotVerify where it cannot be.
    """
    project = load_project(find_project(Path.cwd()))
    place = Workplace(project, project.settings, engine)
    changes = changes_of(project.settings, overrides, flags)
    settle_orphans(place)
    row = find(place, text)
    record = Record(row.run_id, row.record)
    if trusted.load(project.folder).check(record.envelope).state == trusted.BAD:
        raise CannotVerify(
            f"the record of {record.run_id} is not what its signature says: it was changed",
            hint=f"`mirage verify {record.run_id}`; restore it from another copy of the store",
        )
    found = resuming.resumable(place.services(), record)
    _require(place, found, changes, flags)
    settings = _settings(place, record)
    within = Workplace(project, settings, engine)
    within.__dict__.update(store=place.store, reporter=place.reporter)  # where cached_property keeps them
    services = within.services(within.secrets(tuple(record.external["secretNames"])))
    started = None if background is None else background.leave(place.folders, place.reporter)
    return resuming.resume(found, changes, services, retries=settings.retry.infrastructure, started=started)


def changes_of(settings: ProjectSettings, overrides: Sequence[str], flags: dict[str, Json]) -> Changes:
    """What the options change: resources only. Raises ConfigError for anything that would be another computation."""
    from orchestrator import overrides as changed

    layers: list[Layer] = []
    names: set[str] = set()
    for text in overrides:
        override = changed.parse(text)
        if override.path[:2] != ("mirage", "run") or override.path[2:] not in {(n,) for n in RESOURCES}:
            raise ConfigError(
                f"{override.option}: --resume goes on with the same computation, which this would change",
                hint="what may be otherwise is "
                + ", ".join(f"mirage.run.{name}" for name in RESOURCES)
                + "; for another computation run the config, without --resume",
            )
        names.add(override.path[2])
        layers.append(_layer(override.path[2], override.value(), override.option))
    for name, value in flags.items():
        field = name.rpartition(".")[2]
        if field in RESOURCES:
            names.add(field)
            layers.append(_layer(field, value, f"--{field}"))
    return Changes(apply(settings, layers).run, frozenset(names), tuple(overrides))


def _layer(name: str, value: Json, option: str) -> Layer:
    return Layer({"run": {name: value}}, lambda _: option)


def find(place: Workplace, text: str) -> Row:
    """The run, sealed; `latest` is the newest of all. Raises ConfigError for one that goes on, or is not there."""
    from orchestrator import retrying

    unfinished = place.folders.unfinished()
    opened = unfinished[-1:] if text == "latest" else [each for each in unfinished if each.startswith(text)]
    if text == "latest" and opened:
        newest = place.catalog.select(limit=1)
        opened = [] if newest and newest[0].run_id > opened[0] else opened
    if len(opened) == 1:
        raise _open(place, opened[0])
    row = place.catalog.find(text)
    last, more = retrying.last(place.folders, row.run_id)
    if more or last in unfinished:
        raise ConfigError(
            f"{row.run_id} is being made again just now: there is nothing to resume yet",
            hint=f"`mirage wait {row.run_id}` waits for that, `mirage cancel {row.run_id}` ends it",
        )
    return row


def _open(place: Workplace, run_id: RunId) -> ConfigError:
    """Why an open run cannot be resumed: it goes on, or could not be sealed."""
    from orchestrator.journal import is_held

    handle = None if is_held(place.folders, run_id) else place.executor.find(run_id)
    state = None if handle is None else place.executor.state(handle)
    if is_held(place.folders, run_id) or (state is not None and state.status == "running"):
        return ConfigError(
            f"{run_id} is still going: there is nothing to resume yet",
            hint=f"`mirage wait {run_id}` waits for its end, `mirage cancel {run_id}` ends it",
        )
    return ConfigError(
        f"{run_id} has no record yet, and could not be given one", hint=f"mirage recover {run_id}"
    )


def _require(place: Workplace, found: Resumable, changes: Changes, flags: dict[str, Json]) -> None:
    record = found.record
    network = flags.get("run.network")
    if network is not None and network != record.external["network"]:
        raise ConfigError(
            f"--network {network}: {record.run_id} had the network {record.external['network']}, and --resume goes on "
            "with the same computation",
            hint="leave it out; for another network run the config, without --resume",
        )
    given = changes.names | ({"network"} if network is not None else set())
    resuming.require_fences(record, place.settings.run, place.folders, given)


def _settings(place: Workplace, record: Record) -> ProjectSettings:
    """How this machine runs it (retries, limits of outputs): as the config says now, where there still is one."""
    external = record.external
    try:
        config = load_config(
            place.project, place.project.folder / external["configPath"], external["overrides"]
        )
    except MirageError:
        return place.project.settings
    return config.settings
