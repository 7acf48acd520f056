"""The stage `load`: from project.yaml, a config file, `--set` and options to one frozen Config.

Finds the project and reads the two files; the keys of project.yaml are settings.py's, YAML is yamlcore's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from orchestrator import overrides as changes
from orchestrator import settings as layers
from orchestrator import yamlcore
from orchestrator.canonical import Json, encode
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ArtifactError, ConfigError, did_you_mean
from orchestrator.project_folder import PROJECT_FILE, find_project
from orchestrator.reference import KINDS, parse_artifact
from orchestrator.settings import (
    BuildSettings,
    EnvironmentSettings,
    Layer,
    ProjectSettings,
    RunSettings,
    S3Settings,
    shown,
)
from orchestrator.yamlcore import MAX_BYTES, Document
from orchestrator.yamlschema import MAX_INTEGER

__all__ = [
    "PROJECT_FILE",
    "BuildSettings",
    "Config",
    "EnvironmentSettings",
    "Project",
    "ProjectSettings",
    "RunSettings",
    "S3Settings",
    "find_project",
    "load_config",
    "load_project",
]

_BLOCK = "mirage"
_EXAMPLE = 'a config is a mapping such as `training: {lr: 1e-3}` or `data: {train: "dataset:digits:v1"}`'


@dataclass(frozen=True)
class Project:
    """A folder with project.yaml: where it is, what the file says, and the file's own bytes.

    ``named``: the file gives the project's name; without, it is the folder's, which differs between clones.
    """

    folder: Path
    settings: ProjectSettings
    source: bytes
    named: bool


@dataclass(frozen=True)
class Config:
    """A config as a run sees it, everything resolved.

    ``path`` is relative to the project; ``raw`` the file as it is; ``visible`` what the workflow finds under that
    path (the file itself unless `--set` changed a value); ``canonical`` the values without the `mirage:` block as
    RFC 8785 JSON, and ``digest`` its digest; ``inputs`` the artifact ids in it, each once, in order of appearance.
    ``settings`` are those of this call, ``committed`` those that the commit alone gives, without any option.
    ``raw`` and ``canonical`` decide ``visible``, so that one config digest of one commit makes one image.
    """

    path: str
    raw: bytes
    visible: bytes
    canonical: bytes
    digest: Digest
    inputs: tuple[str, ...]
    settings: ProjectSettings
    committed: ProjectSettings

    def values(self) -> dict[str, Any]:
        """The resolved values, a fresh copy."""
        return cast("dict[str, Any]", _decode(self.canonical))


def load_project(folder: Path) -> Project:
    """Read project.yaml. Raises ConfigError with file and line for what it cannot take."""
    folder = folder.resolve()
    source = _read(folder / PROJECT_FILE, PROJECT_FILE, hint=lambda: "`mirage init` makes a project")
    document = yamlcore.parse(source, PROJECT_FILE)
    defaults = ProjectSettings(project=layers.default_project(folder.name))
    settings = layers.apply(defaults, [Layer(document.value, document.at)])
    named = isinstance(document.value, dict) and document.value.get("project") is not None
    return Project(folder, settings, source, named)


def load_config(
    project: Project,
    path: Path,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Json] | None = None,
) -> Config:
    """Read a config (``path`` absolute, or relative to the current folder) and resolve everything about it.

    ``overrides`` are the texts of `--set`; ``flags`` are settings by dotted name from other options, and win.
    Raises ConfigError with file and line, and ArtifactError for a malformed artifact id.
    """
    inside = _inside(project, path)
    raw = _read(project.folder / inside, inside, hint=lambda: _configs(project, inside))
    document = yamlcore.parse(raw, inside)
    values = document.value
    if not isinstance(values, dict):
        what = "is empty" if values is None else f"is {shown(values)}, not a mapping"
        raise ConfigError(
            f"{document.at() if values is not None else inside}: the config {what}", hint=_EXAMPLE
        )
    settings = [Layer(values.pop(_BLOCK, None), lambda at: document.at((_BLOCK, *at)))]
    written = encode(values)
    changed: list[tuple[tuple[str | int, ...], str]] = []
    for override in map(changes.parse, overrides):
        if override.path[0] == _BLOCK:
            settings.append(Layer(_nested(override.path[1:], override.value()), _always(override.option)))
        else:
            changed.append((changes.apply(values, override), override.option))
    for name, value in (flags or {}).items():
        parts = name.split(".")
        settings.append(Layer(_nested(parts, value), _always(f"--{parts[-1].replace('_', '-')}")))
    canonical = encode(values)
    visible = (
        raw
        if canonical == written
        else yamlcore.dump(_in_order(yamlcore.parse(raw, inside).value, canonical))
    )
    return Config(
        path=inside,
        raw=raw,
        visible=visible,
        canonical=canonical,
        digest=of_bytes(canonical),
        inputs=tuple(dict.fromkeys(_inputs(values, document, changed))),
        settings=layers.apply(project.settings, settings),
        committed=layers.apply(project.settings, settings[:1]),
    )


def _inside(project: Project, path: Path) -> str:
    """The path of a config below its project, links followed, with `/`."""
    try:
        inside = Path(os.path.realpath(path)).relative_to(project.folder)
    except ValueError as error:
        raise ConfigError(
            f"the config {path} is outside of the project {project.folder}",
            hint="a config is part of its project's commit: put it into configs/",
        ) from error
    text = inside.as_posix()
    if not text.isprintable():
        raise ConfigError(f"the config's path {text!r} is not printable text", hint="rename it")
    return text


def _read(file: Path, name: str, *, hint: Callable[[], str]) -> bytes:
    """A regular file's bytes, not much more than YAML may have."""
    try:
        if not file.is_file():
            missing = "is not a file" if file.exists() else "does not exist"
            raise ConfigError(f"{name} {missing}", hint=hint())
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from error


def _configs(project: Project, missing: str) -> str:
    """The hint for a config that is not there."""
    folder = project.folder / "configs"
    found = sorted(
        f"configs/{file.name}" for suffix in ("yaml", "yml") for file in folder.glob(f"*.{suffix}")
    )
    near = did_you_mean(missing, found)
    listed = f"the configs are: {', '.join(found[:20])}" if found else "configs/ has no YAML files"
    return f"{near} {listed}" if near else listed


def _always(option: str) -> Callable[[tuple[str | int, ...]], str]:
    return lambda _: option


def _nested(parts: Sequence[str], value: Json) -> Json:
    for part in reversed(parts):
        value = {part: value}
    return value


def _decode(canonical: bytes) -> Json:
    """The values again; RFC 8785 writes the float 1e17 as an integer, which it must not become beyond 2^53."""
    result: Json = json.loads(
        canonical, parse_int=lambda text: int(text) if abs(int(text)) <= MAX_INTEGER else float(text)
    )
    return result


def _in_order(written: Json, canonical: bytes) -> Json:
    """The resolved values with the file's order of keys and spelling of numbers, new keys sorted behind.

    Made from the canonical bytes, not from the values, where `1.0` and `1` or the order of two `--set +` would show.
    """

    def like(old: Json, new: Json) -> Json:
        if isinstance(old, dict) and isinstance(new, dict):
            kept = {key: like(old[key], new[key]) for key in old if key in new}
            return {**kept, **{key: new[key] for key in new if key not in old}}
        if isinstance(old, list) and isinstance(new, list):
            return [*map(like, old, new), *new[len(old) :]]
        same_number = type(old) in (int, float) and type(new) in (int, float) and old == new
        return old if same_number else new

    return like(written, _decode(canonical))


def _inputs(
    values: Json, document: Document, changed: list[tuple[tuple[str | int, ...], str]]
) -> Iterator[str]:
    """The artifact ids in the values, in their order. Raises ArtifactError for a malformed one."""
    for path, text in _strings(values, ()):
        kind, *rest = text.split(":")
        if kind not in KINDS or len(rest) != 2 or rest[0].startswith("/") or any(map(str.isspace, text)):
            continue  # prose, or a URL such as file://host:80/x
        try:
            yield str(parse_artifact(text))
        except ArtifactError as error:
            options = [option for at, option in changed if path[: len(at)] == at]
            where = options[-1] if options else document.at(path)
            raise ArtifactError(f"{where}: {error.message}", hint=error.hint) from error


def _strings(value: Json, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, (*path, number))
