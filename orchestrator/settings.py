"""The settings of project.yaml: every key, its default, what it accepts; and how layers of them lie on each other.

Each field below names its reader, and that is the whole table. Reads no file; lines come from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple, NoReturn, TypeVar

from orchestrator import setting_values as values
from orchestrator.canonical import Json
from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.setting_values import Path, Reader, Unfit

Place = Callable[[Path], str]
_Section = TypeVar("_Section")


def _read_by(reader: Reader, default: Any, *, merge: bool = False) -> Any:
    """A field with its reader; ``merge`` adds to the layer below instead of replacing it."""
    return field(default=default, metadata={"reader": reader, "merge": merge})


@dataclass(frozen=True)
class S3Settings:
    """`s3:`; what a bucket needs besides its URI. Never credentials."""

    endpoint_url: str | None = _read_by(values.optional(values.location), None)
    region: str | None = _read_by(values.optional(values.text), None)
    profile: str | None = _read_by(values.optional(values.text), None)
    addressing_style: str = _read_by(values.one_of("auto", "path", "virtual"), "auto")


@dataclass(frozen=True)
class EnvironmentSettings:
    """`environment:`; which lock file, which of its groups, and what to do with lines that pin nothing."""

    lock: str = _read_by(values.text, "auto")
    groups: tuple[str, ...] = _read_by(values.names(values.GROUP, "main"), ("main",))
    unpinned: str = _read_by(values.one_of("refuse", "resolve"), "refuse")


@dataclass(frozen=True)
class OutputSettings:
    """`run.outputs:`; what one run may publish, in bytes and files over all of its artifacts, and the disk beside it."""

    max_bytes: int = _read_by(values.size(1), 1 << 40)
    max_holes: int = _read_by(values.size(0), 16 << 30)
    max_files: int = _read_by(values.integer(1), 10_000_000)
    keep_free: int | None = _read_by(values.optional(values.size(0)), None)
    secrets: str = _read_by(values.one_of("refuse", "allow"), "refuse")


@dataclass(frozen=True)
class RunSettings:
    """`run:`; the container of a run. Sizes in bytes, times in seconds.

    ``gpus`` is empty, `("all",)`, `("count=N",)` or device ids.
    """

    network: str = _read_by(values.one_of("none", "bridge", "host"), "none")
    memory: int | None = _read_by(values.optional(values.size(values.LEAST_MEMORY)), None)
    cpus: float | None = _read_by(values.optional(values.cpus), None)
    gpus: tuple[str, ...] = _read_by(values.gpus, ())
    shm_size: int = _read_by(values.size(1), 1 << 30)
    timeout: float | None = _read_by(values.optional(values.duration), None)
    pids: int = _read_by(values.integer(16), 4096)
    runtime: str | None = _read_by(values.optional(values.matching(values.GROUP, "a runtime's name")), None)
    audit: bool = _read_by(values.boolean, True)
    threads: int = _read_by(values.integer(1), 1)
    seed: int = _read_by(values.integer(0), 0)
    env: tuple[tuple[str, str], ...] = _read_by(values.env, (), merge=True)
    secrets: tuple[str, ...] = _read_by(values.secrets, ())
    outputs: OutputSettings = field(default_factory=OutputSettings)


@dataclass(frozen=True)
class BuildSettings:
    """`build:`; what the builder of the environment may use of the host."""

    network: str = _read_by(values.one_of("default", "none", "bridge", "host"), "default")
    ca_bundle: str = _read_by(values.text, "auto")
    index: str = _read_by(values.index, "inherit")


@dataclass(frozen=True)
class SignSettings:
    """`sign:`; the private key that signs records: `auto` (the user's own, where there is one), `none`, or a path."""

    key: str = _read_by(values.location, "auto")


@dataclass(frozen=True)
class TrustSettings:
    """`trust:`; whom to believe what a key led to (the words are those of trust/claims.py)."""

    environments: str = _read_by(values.one_of("auto", "any", "signed", "own"), "auto")


@dataclass(frozen=True)
class RetrySettings:
    """`retry:`; how often a run is made again that the engine or the machine ended, never one that failed by itself."""

    infrastructure: int = _read_by(values.integer(0), 0)


@dataclass(frozen=True)
class ProjectSettings:
    """All of project.yaml, with the layers above it applied."""

    project: str = _read_by(
        values.matching(values.PROJECT, "a name of a-z 0-9 . _ -, beginning with a letter or digit"),
        "project",
    )
    workflow: str = _read_by(values.module, "workflows.training_pipeline")
    store: str = _read_by(values.location, ".mirage/artifacts")
    s3: S3Settings = field(default_factory=S3Settings)
    base: str = _read_by(values.location, "python-3.11")
    platform: str = _read_by(values.one_of("auto", "linux/amd64", "linux/arm64"), "auto")
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    bank: tuple[str, ...] = _read_by(values.some_of("base", "layers", "wheels"), ("base", "layers"))
    dirty: str = _read_by(values.one_of("refuse", "snapshot"), "refuse")
    run: RunSettings = field(default_factory=RunSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    build: BuildSettings = field(default_factory=BuildSettings)
    sign: SignSettings = field(default_factory=SignSettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    tolerance: tuple[tuple[str, values.Slack], ...] = _read_by(values.tolerance, (), merge=True)


class Layer(NamedTuple):
    """Settings as written in one place; ``place`` gives `file:line` (or the option) of a path in them."""

    value: Json
    place: Place


def default_project(folder_name: str) -> str:
    """The project's name where project.yaml gives none: that of its folder, made to fit."""
    return re.sub(r"[^a-z0-9._-]+", "-", folder_name.lower()).strip("._-")[:128] or "project"


def apply(settings: ProjectSettings, layers: Iterable[Layer]) -> ProjectSettings:
    """``settings`` with layers laid over it, later ones above.

    Raises ConfigError for an unknown key (naming the nearest) and for a value of the wrong type, with the line.
    """
    for layer in layers:
        settings = _apply(settings, layer.value, layer.place, ())
    return settings


def _apply(section: _Section, value: Json, place: Place, path: Path) -> _Section:
    if value is None:  # a heading with everything under it commented out
        return section
    known: dict[str, Field[Any]] = {each.name: each for each in fields(section)}  # type: ignore[arg-type]
    if not isinstance(value, dict):
        _fail(place, path, Unfit(f"a mapping with keys such as {', '.join([*known][:4])}"), value)
    changes: dict[str, Any] = {}
    for key, item in value.items():
        here = (*path, key)
        if key not in known:
            inside = f" in {_dotted(path)}" if path else ""
            raise ConfigError(
                f"{place(here)}: unknown key {key!r}{inside} (known: {', '.join(known)})",
                hint=_elsewhere(key) or did_you_mean(key, [*known]),
            )
        current = getattr(section, key)
        if is_dataclass(current):
            changes[key] = _apply(current, item, place, here)
            continue
        try:
            found = known[key].metadata["reader"](item)
        except Unfit as unfit:
            _fail(place, here, unfit, item)
        changes[key] = (
            tuple(sorted({**dict(current), **dict(found)}.items())) if known[key].metadata["merge"] else found
        )
    return replace(section, **changes)  # type: ignore[type-var]


def _fail(place: Place, path: Path, unfit: Unfit, value: Json) -> NoReturn:
    for part in unfit.at:
        path = (*path, part)
        value = value[part]  # type: ignore[index]
    subject = f"{_dotted(path)}: " if path else ""
    problem = unfit.problem or f"expected {unfit.expected}, got {shown(value)}"
    raise ConfigError(f"{place(path)}: {subject}{problem}", hint=unfit.hint)


def _elsewhere(key: str) -> str | None:
    """The hint for a key that stands in the wrong section."""
    homes = [
        f"{each.name}.{key}"
        for each in fields(ProjectSettings)
        if is_dataclass(found := getattr(ProjectSettings(), each.name)) and hasattr(found, key)
    ]
    if hasattr(ProjectSettings(), key):
        homes.append(f"{key} at the top level")
    return f"did you mean {' or '.join(homes)}?" if homes else None


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def shown(value: Json) -> str:
    """A value for an error message: its kind, and itself where it is short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, str):
        return f"the string {value[:80]!r}"
    return f"the number {value}"
