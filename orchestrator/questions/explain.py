"""Why a key was a hit or a miss: its components, and the nearest earlier key of its kind with what differs.

Works on the manifests that were kept beside what each key led to; makes no key itself. What a config's keys would be
is foresee.py's part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.catalog.row import Row
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import MirageError
from orchestrator.key import Key
from orchestrator.ports import Store
from orchestrator.reference import RunId
from orchestrator.store.folder import FolderStore

KINDS = ("env", "image", "run")
CANDIDATES = 200  # of earlier keys that are looked at, the newest


@dataclass(frozen=True)
class Difference:
    """A component with its values as JSON text; None where there is none."""

    component: str
    before: str | None
    now: str | None


@dataclass(frozen=True)
class Nearest:
    """The earlier key with the fewest differing components; ``run`` is the first that had it, where one did."""

    key: Digest
    run: RunId | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Explained:
    """A key: hit, miss, or unknown with the reason; its manifest, what it led to, and what was nearest at a miss."""

    kind: str
    state: str  # hit | miss | unknown
    reason: str
    key: Digest | None = None
    manifest: bytes | None = None
    led_to: tuple[str, ...] = ()
    first_run: RunId | None = None
    nearest: Nearest | None = None


@dataclass(frozen=True)
class Candidate:
    """An earlier key, and the first run that had it."""

    key: Digest
    run: RunId | None


class Keys:
    """The manifests that are kept in some places (this machine's cache, the store), and those of runs by record."""

    def __init__(self, places: tuple[Store, ...], row: Callable[[str], Row | None]) -> None:
        self._places = places
        self._row = row

    def manifest(self, kind: str, key: Digest, run: RunId | None = None) -> bytes | None:
        """What a key was made of; None where nobody kept it, or where it does not hash to the key."""
        if kind == "run":
            row = None if run is None else self._row(run)
            data = None if row is None else self._of_run(row)
            return data if data is not None and of_bytes(data) == key else None
        for place in self._places:
            data = place.read(f"keys/{kind}/{hex_of(key)}/manifest.json")
            if data is not None and of_bytes(data) == key:
                return data
        return None

    def _of_run(self, row: Row) -> bytes | None:
        """A run's key is kept in its record, part by part (key.py, ``run_key``)."""
        external, internal = row.definition["externalParameters"], row.definition["internalParameters"]
        image = self.manifest("image", parse_digest(internal["imageKey"]))
        if image is None:
            return None
        from orchestrator.key import run_key

        inputs = [
            item for item in row.definition["resolvedDependencies"] if item["name"].startswith("input:")
        ]
        return run_key(
            Key(of_bytes(image), image),
            argv=tuple(external["entrypoint"]),
            inputs=tuple(
                (item["name"].removeprefix("input:"), Digest(f"sha256:{item['digest']['sha256']}"))
                for item in inputs
            ),
            env=tuple(external["env"].items()),
            secrets=tuple(external["secretNames"]),
            network=external["network"],
            threads=internal["threads"],
            seed=internal["seed"],
        ).manifest

    def led_to(self, kind: str, key: Digest) -> tuple[str, ...]:
        """The digests that a key ever led to; more than one is drift."""
        found: dict[str, None] = {}
        for place in self._places:
            for name in place.keys(f"keys/{kind}/{hex_of(key)}/results/"):
                found["sha256:" + name.rpartition("/")[2].removesuffix(".json")] = None
        return tuple(found)

    def kept(self, kind: str) -> Iterator[Candidate]:
        """Keys that were kept whoever made them, the newest first in each place; a bounded number."""
        for place in self._places if kind != "run" else ():
            for name in _newest(place, kind):
                try:
                    yield Candidate(parse_digest(f"sha256:{name}"), None)
                except MirageError:
                    continue

    def nearest(
        self, kind: str, key: Digest, manifest: bytes, candidates: Iterable[Candidate]
    ) -> Nearest | None:
        """The candidate with the fewest differing components; the first of equal ones."""
        now = components(manifest)
        best: tuple[int, int] | None = None
        found: Nearest | None = None
        seen = {key}
        for candidate in candidates:
            if candidate.key in seen:
                continue
            seen.add(candidate.key)
            data = self.manifest(kind, candidate.key, candidate.run)
            if data is None:
                continue
            differing = tuple(_differences(components(data), now))
            distance = (len({each.component.partition(" ")[0] for each in differing}), len(differing))
            if best is None or distance < best:
                best, found = distance, Nearest(candidate.key, candidate.run, differing)
        return found


def _newest(place: Store, kind: str) -> list[str]:
    if isinstance(place, FolderStore):
        try:
            with os.scandir(Path(place.location) / "keys" / kind) as items:
                found = [(item.stat(follow_symlinks=False).st_mtime_ns, item.name) for item in items]
        except OSError:
            return []
        return [name for _, name in sorted(found, reverse=True)[:CANDIDATES]]
    names = dict.fromkeys(key.split("/")[2] for key in place.keys(f"keys/{kind}/"))
    return list(names)[:CANDIDATES]


def components(manifest: bytes) -> dict[str, str]:
    """The named components of a key as JSON text; packages, inputs and variables each by themselves."""
    item = canonical.decode(manifest)
    found: dict[str, str] = {}
    for name, value in item.items() if isinstance(item, dict) else ():
        if isinstance(value, dict):
            packages = value.get("packages")
            inner = {**value}
            if isinstance(packages, list):
                del inner["packages"]
                inner.update(_by_name(packages))
            found.update({f"{name} {each}": canonical.encode(part).decode() for each, part in inner.items()})
        else:
            found[name] = canonical.encode(value).decode()
    return found


def _by_name(packages: list[Json]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for package in packages:
        name = str(package.get("name")) if isinstance(package, dict) else str(package)
        while name in found:  # one package with several markers
            name += "'"
        found[name] = package
    return found


def _differences(before: dict[str, str], now: dict[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield Difference(name, before.get(name), now.get(name))


def of_run(
    row: Row,
    keys: Keys,
    first_with: Callable[[str, str], RunId | None],
    earlier: Callable[[str], Iterable[Candidate]],
) -> tuple[Explained, ...]:
    """The keys of a sealed run: a hit where an earlier run of the store had the same one.

    ``first_with`` gives the first run with a key of a kind, ``earlier`` the keys of a kind by their first runs.
    """
    internal = row.definition["internalParameters"]
    return tuple(
        _of_sealed(row, keys, kind, parse_digest(internal[f"{kind}Key"]), first_with, earlier)
        for kind in KINDS
    )


def _of_sealed(
    row: Row,
    keys: Keys,
    kind: str,
    key: Digest,
    first_with: Callable[[str, str], RunId | None],
    earlier: Callable[[str], Iterable[Candidate]],
) -> Explained:
    manifest, led_to = keys.manifest(kind, key, row.run_id), keys.led_to(kind, key) if kind != "run" else ()
    first = first_with(kind, key) or row.run_id
    if first < row.run_id:
        return Explained(kind, "hit", "an earlier run had it", key, manifest, led_to, first)
    if manifest is None:
        return Explained(
            kind, "miss", "no earlier run had it; what it was made of is not kept", key, None, led_to
        )
    before = (each for each in earlier(kind) if each.run is not None and each.run < row.run_id)
    nearest = keys.nearest(kind, key, manifest, before)
    return Explained(kind, "miss", "no earlier run had it", key, manifest, led_to, None, nearest)


def to_json(found: Iterable[Explained], inside: Callable[[Difference], list[Json]]) -> list[Json]:
    """The list `keys` that `mirage explain --json` prints; ``inside`` looks behind a difference's digests."""
    return [
        {
            "kind": each.kind,
            "state": each.state,
            "reason": each.reason,
            "key": each.key,
            "led_to": list(each.led_to),
            "first_run": each.first_run,
            "components": None if each.manifest is None else canonical.decode(each.manifest),
            "nearest": None
            if each.nearest is None
            else {
                "key": each.nearest.key,
                "run": each.nearest.run,
                "differences": [
                    {
                        "component": d.component,
                        "before": _value(d.before),
                        "now": _value(d.now),
                        "inside": inside(d),
                    }
                    for d in each.nearest.differences
                ],
            },
        }
        for each in found
    ]


def _value(text: str | None) -> Json:
    return None if text is None else canonical.decode(text)
