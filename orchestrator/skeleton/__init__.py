"""The project that `mirage init` makes. Owns the templates, and writing them without touching what exists."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import ConfigError

_TEMPLATE = Path(__file__).parent / "template"
_NAME = re.compile(r"[a-z0-9_-]+")
_PLACEHOLDER = "__PROJECT__"


def write_skeleton(folder: Path, name: str | None = None) -> tuple[str, ...]:
    """Write a new project into a folder, which may exist; gives the relative paths written, sorted.

    The name defaults to the folder's. Raises ConfigError where the name breaks the grammar `[a-z0-9_-]+`, the
    folder cannot be written, or a file of the skeleton exists already; then nothing is written.
    """
    project = name if name is not None else _normalised(folder.resolve().name)
    if not _NAME.fullmatch(project):
        raise ConfigError(
            f"the project's name cannot be used: {project[:100]!r}", hint="use a-z 0-9 _ - only, lower case"
        )
    sources = {_target(source): source for source in sorted(_TEMPLATE.rglob("*")) if _is_content(source)}
    existing = sorted(path for path in sources if (folder / path).exists() or (folder / path).is_symlink())
    if existing:
        raise ConfigError(
            f"{folder} has files that a new project would overwrite: {', '.join(existing)}",
            hint="choose another folder: mirage init DIR; or move these files away",
        )
    try:
        for path, source in sources.items():
            _write(folder / path, source.read_text("utf-8").replace(_PLACEHOLDER, project))
    except OSError as error:
        raise ConfigError(f"the project cannot be written: {error}") from error
    return tuple(sorted(sources))


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
    if target.suffix == ".sh":
        target.chmod(0o755)


def _target(source: Path) -> str:
    """A template's place in the project: `dot_` stands for the dot that packaging tools leave out."""
    parts = source.relative_to(_TEMPLATE).parts
    return "/".join("." + part[4:] if part.startswith("dot_") else part for part in parts)


def _is_content(source: Path) -> bool:
    return source.is_file() and source.suffix != ".pyc"


def _normalised(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "project"
