"""Where a difference between two runs probably comes from: what their records say differs, and what the values look like.

Guesses, in words for people; decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.errors import MirageError
from orchestrator.judging.judgement import Made, Verdict
from orchestrator.judging.record import Record, sha256_of
from orchestrator.ports import Store
from orchestrator.sizes import readable_size

_SHOWN = 5
_SLACK = 5.0  # seconds around a run in which a number that looks like a time is one
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?|\b\d\d:\d\d:\d\d\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_HOST = re.compile(r"\b[0-9a-f]{12}\b")
_WORDS = {
    "architecture": "the processor's architecture",
    "kernel": "the kernel",
    "memory": "the memory",
    "vendor": "the processor's maker",
    "model": "the processor",
    "flags_sha256": "what the processor can do",
    "cores": "the number of cores",
    "gpus": "the GPUs",
    "gpu_driver": "the GPU's driver",
}


def probable(original: Made, again: Made, first: Verdict | None, repeats: int, store: Store) -> list[str]:
    """The likely sources, the likeliest first; empty where nothing differs. ``store`` has what was installed."""
    if first is None:
        return []
    found = [*_looks(original, again, first), *_environment(original.record, again.record, store)]
    found += _itself(first, repeats)
    found += _hardware(original.record, again.record)
    found += _settings(original.record)
    return list(dict.fromkeys(found)) or [
        "no source is known: image, inputs, settings and hardware class are the same; a clock, a generator without "
        "a seed, or something outside of the declared inputs (`--repeat 2` tells whether it is stable here)"
    ]


def _looks(original: Made, again: Made, first: Verdict) -> Iterator[str]:
    """What the differing values themselves give away."""
    if first.difference is None:
        return
    old, new = first.difference.original, first.difference.again
    if original.record.run_id in old or again.record.run_id in new:
        yield "the run's own id is in the output (MIRAGE_RUN_ID differs from run to run)"
    elif _is_time(old, original.record) and _is_time(new, again.record):
        yield "a clock: the values are the times of the two runs"
    elif _HOST.search(old) and _HOST.search(new):
        yield "the container's host name (HOSTNAME differs from run to run)"


def _is_time(text: str, record: Record) -> bool:
    if _TIME.search(text):
        return True
    metadata = record.details["metadata"]
    start, end = (_seconds(metadata[name]) for name in ("startedOn", "finishedOn"))
    return any(
        start - _SLACK <= float(number) / scale <= end + _SLACK
        for number in _NUMBER.findall(text)
        for scale in (1.0, 1e3, 1e6, 1e9)
    )


def _seconds(stamp: str) -> float:
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def _environment(original: Record, again: Record, store: Store) -> Iterator[str]:
    """A rebuilt image that came out otherwise, by its parts."""
    if _digest(original, "image") == _digest(again, "image"):
        return
    if _digest(original, "base-image") != _digest(again, "base-image"):
        yield "a drifted base: it was built again and came out otherwise"
    elif original.byproduct("environment.json") != again.byproduct("environment.json"):
        yield _packages(_installed(original, store), _installed(again, store))
    else:
        yield "a rebuilt image: its digest came out otherwise"


def _packages(old: dict[str, tuple[str, str]] | None, new: dict[str, tuple[str, str]] | None) -> str:
    """What differs between two environments: versions that nothing pinned, or other files under one version."""
    unknown = "a rebuilt environment: its installed packages came out otherwise"
    if old is None or new is None:
        return unknown
    moved = [
        f"{name} {old.get(name, ('none',))[0]} became {new.get(name, ('none',))[0]}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name, ("",))[0] != new.get(name, ("",))[0]
    ]
    if moved:
        return f"an unpinned package: {_few(moved)}"
    other = [f"{name} {old[name][0]}" for name in old if name in new and old[name] != new[name]]
    if other:
        return (
            f"an unpinned package: {_few(other)} came with other files under the same version (a hash in the lock pins "
            "a wheel; what is compiled on the spot may come out otherwise)"
        )
    return unknown


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _installed(record: Record, store: Store) -> dict[str, tuple[str, str]] | None:
    """Of each installed package its version and the digest of its list of files; None where that cannot be read."""
    digest = record.byproduct("environment.json")
    try:
        packages = [] if digest is None else canonical.decode(read_verified(store, digest))
    except (MirageError, ValueError):
        return None
    return {
        str(item["name"]): (str(item.get("version")), str(item.get("record")))
        for item in (packages if isinstance(packages, list) else ())
        if isinstance(item, dict) and "name" in item
    }


def _digest(record: Record, name: str) -> str:
    return sha256_of(record.dependency(name))


def _itself(first: Verdict, repeats: int) -> Iterator[str]:
    if first.varies:
        yield (
            "it also differs from itself on this machine: a clock, a generator without a seed, or the order of threads"
        )
    elif repeats > 1:
        yield (
            f"it is the same in {repeats} repetitions here: something between the two machines or days, such as "
            "hardware, or an input that is not declared"
        )


def _hardware(original: Record, again: Record) -> Iterator[str]:
    old, new = _flat(original), _flat(again)
    parts = [
        f"{_WORDS[name]} ({old.get(name)} became {new.get(name)})" if name != "flags_sha256" else _WORDS[name]
        for name in _WORDS
        if old.get(name) != new.get(name)
    ]
    if parts:
        yield f"another hardware class: {', '.join(parts)}"
    if original.internal["sandbox"] != again.internal["sandbox"]:
        before, after = original.internal["sandbox"], again.internal["sandbox"]
        names = [name for name in before if before[name] != after.get(name)]
        yield f"another sandbox: {', '.join(f'{name} {before[name]} became {after.get(name)}' for name in names)}"


def _flat(record: Record) -> dict[str, Any]:
    found = dict(record.details["mirage_hardware"])
    cpu = found.pop("cpu", {})
    found["gpus"] = ", ".join(map(_gpu, found.get("gpus") or ())) or None
    return {**found, **cpu}


def _gpu(told: dict[str, Any]) -> str:
    """What may change a GPU's numbers, in words: not which card of its kind it was."""
    words = [f"{name} {told[name]}" for name in ("compute_capability", "ecc", "mig") if told.get(name)]
    if told.get("memory"):
        words.append(readable_size(told["memory"]))
    return f"{told.get('model')} ({', '.join(words)})" if words else str(told.get("model"))


def _settings(record: Record) -> Iterator[str]:
    threads = record.internal["threads"]
    if threads > 1:
        yield f"threads: it ran with {threads}, and the order in which they add numbers may differ (run.threads: 1)"
    if record.external["network"] != "none":
        yield f"an undeclared input: its network was {record.external['network']}, and what it read there is not recorded"
    if record.external["gpus"]:
        yield "a GPU: the same bits are promised on the same model and driver only"
