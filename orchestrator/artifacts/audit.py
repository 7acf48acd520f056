"""What a run's audit noted, read from lines that a workflow could have written itself: bounded, and believed no further.

The lines are made by mirage/startup.py. Nothing in a record hangs on them but the record's own `mirage_audit`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator import canonical
from orchestrator.artifacts.version import read_manifest
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.artifacts.outbox import Outbox
    from orchestrator.ports import Store

# What one list of a record holds at most; the byproduct has the rest.
_MOST = 50
_LONGEST = 300
# A line's kind -> its list in the record.
_LISTS = {
    "missing": "missing",
    "write": "writes",
    "resolve": "connections",
    "connect": "connections",
    "program": "programs",
    "host": "host",
}


def take(outbox: Outbox, store: Store, definition: Any) -> tuple[Digest | None, str | None]:
    """The blob of a run's audit and the record's `mirage_audit` as canonical JSON, where there are any."""
    audit = Audit()
    blob = outbox.audit(audit.see)
    if blob is None:
        return None, None
    try:
        found = audit.summary(_tree_numbers(store, definition))
    except StoreError:  # an input's manifest is lost by now: no reason not to seal the run
        return blob, None
    return blob, None if found is None else canonical.encode(found).decode()


def _tree_numbers(store: Store, definition: Any) -> dict[str, int]:
    """The inputs as the config writes them, with the folder that an executor laid each in: one for each tree."""
    numbers: dict[str, int] = {}
    place: dict[Digest, int] = {}
    for item in definition["resolvedDependencies"]:
        if item["name"].startswith("input:"):
            manifest = read_manifest(store, parse_digest(f"sha256:{item['digest']['sha256']}"))
            numbers[item["name"].removeprefix("input:")] = place.setdefault(manifest.tree, len(place))
    return numbers


class Audit:
    """Takes lines, gives the summary."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, None]] = {name: {} for name in _LISTS.values()}
        self._inputs: set[int] = set()
        self._more = 0
        self._begun = False

    def see(self, line: bytes) -> None:
        """Take one line; one that is none is passed over."""
        try:
            item = json.loads(line)
            kind, name = item["kind"], item["name"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if not isinstance(kind, str) or not isinstance(name, str):
            return
        name = name[:_LONGEST].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        if kind == "python":
            self._begun = True
        elif kind == "input" and name.isascii() and name.isdecimal() and len(name) < 9:
            self._inputs.add(int(name))
        elif kind in _LISTS and name:
            self._add(self._found[_LISTS[kind]], name)

    def _add(self, names: dict[str, None], name: str) -> None:
        if name in names:
            return
        if len(names) < _MOST:
            names[name] = None
        else:
            self._more += 1

    def summary(self, trees: dict[str, int]) -> dict[str, Json] | None:
        """The record's `mirage_audit`; ``trees``: the inputs as the config writes them, with their folders' numbers.

        None where no process of the run began to note.
        """
        if not self._begun:
            return None
        lists: dict[str, Any] = {name: [*names] for name, names in self._found.items()}
        return {
            "inputsUsed": [name for name, number in trees.items() if number in self._inputs],
            "inputsUnused": [name for name, number in trees.items() if number not in self._inputs],
            **lists,
            "more": self._more,
        }
