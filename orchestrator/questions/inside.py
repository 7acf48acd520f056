"""What lies behind two digests of a key's component: the values of two configs, the files of two trees.

A key names its config and its tree by digest alone, which tells nobody what to look at. Reads the store and git; what
neither of them has is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.digest import parse_digest
from orchestrator.errors import MirageError
from orchestrator.ports import Store
from orchestrator.questions.diff import leaves
from orchestrator.questions.explain import Difference
from orchestrator.source import history

_MOST = 50  # files and values that are named


@dataclass(frozen=True)
class Part:
    """A value of the config, or a file, that differs: as JSON text, None where there is none."""

    name: str
    before: str | None
    now: str | None


Inside = Callable[[Difference], tuple[Part, ...]]


def reader(store: Store, repository: Path, configs: Mapping[str, bytes]) -> Inside:
    """Looks behind digests. ``configs`` are canonical configs by digest that no run has kept in the store yet."""

    def inside(difference: Difference) -> tuple[Part, ...]:
        before, now = (_text(each) for each in (difference.before, difference.now))
        if before is None or now is None or difference.component not in ("config", "tree"):
            return ()
        if difference.component == "tree":
            return _files(repository, before, now)
        one, two = (_config(store, configs, each) for each in (before, now))
        if one is None or two is None:
            return ()
        names = [name for name in dict.fromkeys((*one, *two)) if one.get(name) != two.get(name)]
        return tuple(Part(name, one.get(name), two.get(name)) for name in names[:_MOST])

    return inside


def _text(value: str | None) -> str | None:
    found = None if value is None else canonical.decode(value)
    return found if isinstance(found, str) else None


def _config(store: Store, configs: Mapping[str, bytes], digest: str) -> dict[str, str] | None:
    """The leaves of a config as JSON text."""
    try:
        data = configs.get(digest) or read_verified(store, parse_digest(digest))
        return {
            name: canonical.encode(value).decode() for name, value in leaves(canonical.decode(data)).items()
        }
    except (MirageError, ValueError):
        return None


def _files(repository: Path, before: str, now: str) -> tuple[Part, ...]:
    # Keys are input from outside: an id only, never something that git could read as an option.
    if not set(before + now) <= set("0123456789abcdef"):
        return ()
    try:
        if not all(history.has(repository, tree, "tree") for tree in (before, now)):
            return ()
        found = history.changed_files(repository, before, now)[:_MOST]
    except MirageError:
        return ()
    return tuple(Part(each.path, _quoted(each.before), _quoted(each.after)) for each in found)


def _quoted(text: str | None) -> str | None:
    return None if text is None else canonical.encode(text).decode()


def to_json(parts: tuple[Part, ...]) -> list[Json]:
    """The list `inside` that `mirage explain --json` prints with a difference."""
    return [
        {
            "name": each.name,
            "before": None if each.before is None else canonical.decode(each.before),
            "now": None if each.now is None else canonical.decode(each.now),
        }
        for each in parts
    ]
