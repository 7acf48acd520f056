"""Where a project is, and which store it names, without reading YAML twice: what a question needs of a project.

What project.yaml says is config.py's part. Its answer for ``store`` is remembered beside the project with the whole
file, so that a question which only asks the index need not load and run a YAML parser.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import orchestrator
from orchestrator.errors import ConfigError

PROJECT_FILE = ".mirage/project.yaml"
_REMEMBERED = ".mirage/cache/store-of-project.json"


def find_project(start: Path) -> Path:
    """The nearest folder with `.mirage/project.yaml`, from ``start`` upwards. Raises ConfigError."""
    place = start.resolve()
    for folder in (place, *place.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    raise ConfigError(
        f"no project here: neither {place} nor a folder above it has {PROJECT_FILE}",
        hint="`mirage init` makes a project, or change into one",
    )


def remembered_store(folder: Path) -> str | None:
    """What `store:` was when this very project.yaml was read by this version; None where that is not known."""
    try:
        found = json.loads((folder / _REMEMBERED).read_bytes())
        same = found["of"] == _of((folder / PROJECT_FILE).read_bytes())
        return str(found["store"]) if same and isinstance(found["store"], str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def remember_store(folder: Path, source: bytes, store: str) -> None:
    """Remember it for the next time; where that cannot be written, nothing is lost."""
    path = folder / _REMEMBERED
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps({"of": _of(source), "store": store}))
        part.replace(path)
    except OSError:
        return


def _of(source: bytes) -> list[str]:
    return [orchestrator.__version__, source.decode("latin-1")]
