"""Names: artifact ids `kind:name:version` and run ids, parsed once at the door."""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple, NewType

from orchestrator.errors import ArtifactError, ConfigError

KINDS = ("dataset", "model", "metrics", "report", "file")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_ID = re.compile(r"(?:{}):[^:\s/]+:[^:\s/]+".format("|".join(KINDS)))
_AUTO = re.compile(r"v([1-9][0-9]{0,17})")

RunId = NewType("RunId", str)
_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")


class ArtifactRef(NamedTuple):
    """An artifact id: a kind, a name and a version (`v3`, `exp001`) or an alias (`latest`)."""

    kind: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}:{self.version}"


def looks_like_artifact(text: str) -> bool:
    """Whether a string in a config has the form of an artifact id (and so is an input)."""
    return _ID.fullmatch(text) is not None


def parse_artifact(text: str) -> ArtifactRef:
    """Parse an artifact id; raises ArtifactError that names the wrong part."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ArtifactError(f"not an artifact id: {text!r} (expected kind:name:version)")
    kind, name, version = parts
    if kind not in KINDS:
        raise ArtifactError(f"unknown artifact kind {kind!r} in {text!r} (known: {', '.join(KINDS)})")
    return ArtifactRef(
        kind, check_name(name, f"name in {text!r}"), check_name(version, f"version in {text!r}")
    )


def check_name(text: str, what: str) -> str:
    """Check a name or version against `[a-z0-9][a-z0-9._-]{0,127}` before it becomes a path."""
    if not _NAME.fullmatch(text):
        raise ArtifactError(
            f"{what} cannot be used: {text[:140]!r}",
            hint="start with a-z or 0-9, then a-z 0-9 . _ -; at most 128 characters, lower case",
        )
    return text


def auto_version(version: str) -> int | None:
    """The number of an automatic version (`v7` -> 7), or None for a custom one."""
    match = _AUTO.fullmatch(version)
    return int(match[1]) if match else None


def new_run_id() -> RunId:
    """A new run id, `YYYYMMDD-hhmmss-<6 hex>` in UTC.

    The first four hex digits are the fraction of the second, so that ids sort in the order in which they were made.
    """
    seconds, fraction = divmod(time.time_ns(), 10**9)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
    return RunId(f"{stamp}-{fraction * 0x10000 // 10**9:04x}{os.urandom(1).hex()}")


def parse_run_id(text: str) -> RunId:
    """Check a whole run id; raises ConfigError."""
    if not _RUN_ID.fullmatch(text):
        raise ConfigError(f"not a run id: {text[:60]!r} (expected YYYYMMDD-hhmmss-<6 hex>)")
    return RunId(text)


def record_key(run_id: str) -> str:
    """Where a run's record lies in the store."""
    return f"runs/{run_id[:4]}-{run_id[4:6]}/{run_id}/record.json"
