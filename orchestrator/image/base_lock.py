"""The project's base lock, `.mirage/base.lock.json`: which digest a base's name means, by platform; to be committed.

Reads and writes the file; does not know how a base is found or made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import LockError, StoreError

LOCK_FILE = ".mirage/base.lock.json"
_SCHEMA = "mirage-base-lock/1"


@dataclass(frozen=True)
class Pin:
    """What the project's base lock says of one name on one platform."""

    digest: Digest
    source: str


def read_lock(project: Path) -> dict[tuple[str, str], Pin]:
    """The project's pins by (name, platform). Raises LockError for a damaged file."""
    try:
        content = json.loads((project / LOCK_FILE).read_bytes())
        if content["schema"] != _SCHEMA:
            raise ValueError(f"expected schema {_SCHEMA!r}, got {content['schema']!r}")
        return {
            (name, platform): Pin(parse_digest(pin["digest"]), str(pin["source"]))
            for name, platforms in content["bases"].items()
            for platform, pin in platforms.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError) as error:
        raise LockError(
            f"{LOCK_FILE} cannot be read: {error}",
            hint="take it back from git, or remove it and let `mirage base pin` write it anew",
        ) from error


def write_pin(project: Path, name: str, platform: str, pin: Pin) -> None:
    """Add or replace one pin in the project's base lock."""
    pins = {**read_lock(project), (name, platform): pin}
    bases: dict[str, dict[str, dict[str, str]]] = {}
    for (key, where), value in sorted(pins.items()):
        bases.setdefault(key, {})[where] = {"digest": value.digest, "source": value.source}
    text = json.dumps({"schema": _SCHEMA, "bases": bases}, indent=2, sort_keys=True) + "\n"
    target = project / LOCK_FILE
    temporary = target.with_suffix(".tmp")
    try:
        target.parent.mkdir(exist_ok=True)
        temporary.write_text(text)
        temporary.replace(target)
    except OSError as error:
        raise LockError(
            f"{LOCK_FILE} cannot be written: {error.strerror}", hint="check who owns the folder"
        ) from error
