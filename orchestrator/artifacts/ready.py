"""What a workflow writes beside the files that it saves, read and checked. Format: docs/contract.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts import tree
from orchestrator.errors import ArtifactError, MirageError
from orchestrator.reference import KINDS, check_name

_METADATA_DEPTH = 64


@dataclass(frozen=True)
class Ready:
    """What a save is to become; without a ``version`` it gets the next `vN`."""

    kind: str
    name: str
    version: str | None
    format: str
    entry: str | None
    metadata: str


def parse(item: Any) -> Ready:
    """Read a save. Raises ArtifactError for whatever is not one."""
    if not isinstance(item, dict) or item.get("schema") != "mirage-ready/1":
        raise ArtifactError("a save could not be understood: it has no schema mirage-ready/1")
    kind, version, entry = item.get("kind"), item.get("version"), item.get("entry")
    for field, value in (("name", item.get("name")), ("format", item.get("format")), ("version", version)):
        if not isinstance(value, str) and not (value is None and field == "version"):
            raise ArtifactError(f"a save's {field} is not a string: {str(value)[:100]!r}")
    if kind not in KINDS:
        raise ArtifactError(f"a save names an unknown kind: {str(kind)[:100]!r}")
    if version is not None:
        check_name(str(version), "version")
    metadata = item.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ArtifactError("a save's metadata is not a mapping")
    if not _is_shallow(metadata):
        # what just fits this stack might not fit the stack of whoever reads it
        raise ArtifactError(f"a save's metadata is nested more than {_METADATA_DEPTH} deep")
    try:
        encoded = canonical.encode(metadata).decode()
    except (MirageError, RecursionError, ValueError) as error:  # ValueError: half a surrogate pair
        raise ArtifactError(f"a save's metadata has no exact JSON form: {error}") from error
    return Ready(
        kind=str(kind),
        name=check_name(str(item.get("name")), "name"),
        version=None if version is None else str(version),
        format=check_name(str(item.get("format")), "format"),
        entry=None if entry is None else tree.check_path(entry),
        metadata=encoded,
    )


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_METADATA_DEPTH + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return True
    return False
