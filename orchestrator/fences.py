"""What of a run's fences is not as it is by default: for the summary, from the record's own words.

What each one holds back is docs/security.md's; how it is asked of an engine is the executor's.
"""

from __future__ import annotations

from typing import Any

from orchestrator.settings import RunSettings
from orchestrator.sizes import readable_size

_DEFAULT = RunSettings()


def changed(definition: dict[str, Any]) -> list[str]:
    """Each setting that differs, as `key=value` in the words of project.yaml, from a buildDefinition."""
    internal: dict[str, Any] = definition["internalParameters"]
    external: dict[str, Any] = definition["externalParameters"]
    sandbox: dict[str, Any] = internal.get("sandbox") or {}
    seen = {
        "network": sandbox.get("network", _DEFAULT.network),
        "pids": sandbox.get("pids", _DEFAULT.pids),
        "memory": sandbox.get("memory"),
        "cpus": sandbox.get("cpus"),
        "shm_size": sandbox.get("shm", _DEFAULT.shm_size),
        "gpus": ",".join(external.get("gpus") or ()) or _DEFAULT.gpus,
        "runtime": sandbox.get("runtime"),
        "audit": internal.get("determinism", {}).get("MIRAGE_AUDIT", "1") != "0",
    }
    return [f"{key}={_shown(key, value)}" for key, value in seen.items() if value != getattr(_DEFAULT, key)]


def _shown(key: str, value: object) -> str:
    if key in ("memory", "shm_size") and isinstance(value, int):
        return readable_size(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
