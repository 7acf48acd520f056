"""The fields of a run: what a path of `--where` means in its flat object and its config, and times for people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from orchestrator.canonical import Json


def look_up(path: str, summary: Callable[[], dict[str, Json]], config: Callable[[], Json]) -> Json:
    """The value of a path in a run's flat object and its config; None where there is none."""
    first, _, rest = path.partition(".")
    if first == "config" and rest:
        return _walk(config(), rest)
    if first == "metrics" and rest:
        metrics = summary()["metrics"]
        return metrics.get(rest) if isinstance(metrics, dict) else None
    found = summary()
    return found[path] if path in found else _walk(found, path)


def _walk(value: Json, path: str) -> Json:
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def local_time(stamp: str) -> str:
    """A record's time stamp on this machine's clock, for people."""
    moment = datetime.fromisoformat(stamp.removesuffix("Z") + "+00:00")
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
