"""Aliases: names such as `best` and `prod` that lead to a version and can be moved; every move is kept.

`alias/<kind>/<name>/<alias>/<seq:016>.json`, each created once: whoever creates the next number has moved the alias,
and the highest number is what it means now. So no object is ever changed, and the history comes for free.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.image.oci import timestamp
from orchestrator.ports import Store
from orchestrator.reference import ArtifactRef, auto_version, check_name

_LAST = 10**16 - 1  # in 16 digits, so that moves sort by their names
_SCHEMA = "mirage-alias/1"


@dataclass(frozen=True)
class Move:
    """One move of an alias: to a version, or away (``version`` is None); ``at`` in UTC."""

    number: int
    version: str | None
    by: str
    at: str
    reason: str

    def to_json(self) -> Json:
        """The move for people and programs."""
        return {"version": self.version, "by": self.by, "at": self.at, "reason": self.reason}


def whose() -> str:
    """Who this process works for, as the store's objects say it."""
    return f"uid-{os.getuid()}"


def history(store: Store, kind: str, name: str, alias: str) -> list[Move]:
    """Every move of an alias, oldest first. Raises StoreError where one is damaged."""
    return [read_move(store, key) for key in store.keys(f"alias/{kind}/{name}/{alias}/")]


def current(store: Store, kind: str, name: str, alias: str) -> str | None:
    """The version that an alias means now, or None where there is no such alias."""
    keys = list(store.keys(f"alias/{kind}/{name}/{alias}/"))
    return read_move(store, keys[-1]).version if keys else None


def of_artifact(store: Store, kind: str, name: str) -> dict[str, str]:
    """The aliases of an artifact and the version that each means."""
    return _newest(store, store.keys(f"alias/{kind}/{name}/")).get((kind, name), {})


def every(store: Store) -> dict[tuple[str, str], dict[str, str]]:
    """The aliases of all artifacts: by kind and name, each with the version that it means."""
    return _newest(store, store.keys("alias/"))


def _newest(store: Store, keys: Iterable[str]) -> dict[tuple[str, str], dict[str, str]]:
    last: dict[tuple[str, str, str], str] = {}
    for key in keys:  # in bytewise order, so the last one of an alias is its newest
        parts = key.split("/")
        if len(parts) == 5:
            last[parts[1], parts[2], parts[3]] = key
    found: dict[tuple[str, str], dict[str, str]] = {}
    for (kind, name, alias), key in last.items():
        version = read_move(store, key).version
        if version is not None:
            found.setdefault((kind, name), {})[alias] = version
    return found


def point(store: Store, ref: ArtifactRef, alias: str, *, reason: str = "", away: bool = False) -> Move:
    """Let ``alias`` mean ``ref``'s version from now on, or (``away``) nothing; gives the move that says so.

    Of two who move it at once, both moves are kept and the later one holds. Raises ArtifactError for a word that
    cannot be an alias.
    """
    check(store, ref, alias)
    version = None if away else ref.version
    while True:
        moves = list(store.keys(f"alias/{ref.kind}/{ref.name}/{alias}/"))
        last = read_move(store, moves[-1]) if moves else Move(0, None, "", "", "")
        if last.version == version:
            return last
        if last.number >= _LAST:
            raise StoreError(
                f"the alias {ref.kind}:{ref.name}:{alias} was moved for the last time: its moves are numbered up to {_LAST}",
                hint=f"somebody wrote {moves[-1]} by hand: remove it from {store.location}",
            )
        made = Move(last.number + 1, version, whose(), timestamp(int(time.time())), reason)
        data: dict[str, Json] = {"schema": _SCHEMA, "version": version, "by": made.by, "at": made.at}
        key = f"alias/{ref.kind}/{ref.name}/{alias}/{made.number:016}.json"
        if store.create(key, canonical.encode({**data, "reason": reason})):
            return made


def check(store: Store, ref: ArtifactRef, alias: str) -> None:
    """Check that a word can be an alias of this artifact. Raises ArtifactError."""
    check_name(alias, "alias")
    if alias == "latest":
        raise ArtifactError(
            "`latest` cannot be moved: it always means the newest vN",
            hint="choose another word, such as best",
        )
    if auto_version(alias) is not None:
        raise ArtifactError(
            f"{alias} cannot be an alias: it has the form of a version", hint="choose a word, such as prod"
        )
    if store.read(f"refs/{ref.kind}/{ref.name}/{alias}.json") is not None:
        raise ArtifactError(
            f"{alias} cannot be an alias: {ref.kind}:{ref.name}:{alias} is a version",
            hint="choose another word",
        )


def read_move(store: Store, key: str) -> Move:
    """One move as it lies in the store. Raises StoreError where it is damaged."""
    try:
        item = json.loads(store.read(key) or b"")
        number = int(key.rpartition("/")[2].removesuffix(".json"))
        version = item["version"]
        return Move(
            number,
            None if version is None else check_name(version, "version"),
            str(item.get("by", "")),
            str(item.get("at", "")),
            str(item.get("reason") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ArtifactError) as error:
        named = ":".join(key.split("/")[1:4])
        raise StoreError(
            f"the alias {named} in the store {store.location} is damaged ({key}): {error!r}",
            hint="restore that object from another copy of the store, or remove it: the move before it then holds",
        ) from error
