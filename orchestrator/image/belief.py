"""Whether a store is believed when it says what a key led to: the seam between the library and who is trusted.

A key says what went in, and nothing proves what came out but doing it again. Who decides is trust/claims.py; here are
the values, and the belief of a library whose store is nobody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of
from orchestrator.errors import ImageError
from orchestrator.ports import Store

Entry = dict[str, Json]

BUILT, MACHINE, STORE = "built", "machine", "store"
OWN, ANY, SIGNED, PINNED = "own", "any", "signed", "pinned"


@dataclass(frozen=True)
class Origin:
    """Where something came from, and why it was believed: ``place`` is `built`, `machine` or `store`; ``because`` is
    `own`, `any`, `signed` (with whose key), or `pinned` (its bytes are those that the project's own files name).
    """

    place: str
    because: str
    keyid: str | None = None
    name: str = ""

    def to_json(self) -> Entry:
        """As a record has it."""
        return {"from": self.place, "because": self.because, "keyid": self.keyid}

    def told(self) -> str:
        """In words."""
        where = {BUILT: "built here", MACHINE: "built on this machine before", STORE: "taken from the store"}
        why = {
            OWN: "",
            ANY: ", on the store's word",
            SIGNED: f", signed by {self.name or self.keyid}",
            PINNED: ", checked against what the project pins",
        }
        return where[self.place] + why[self.because]


HERE = Origin(BUILT, OWN)


@dataclass(frozen=True)
class Known:
    """What a key led to, and how that is known."""

    entry: Entry
    origin: Origin


@dataclass(frozen=True)
class Told:
    """A result that a store names and that is not believed, with the reason."""

    entry: Entry
    reason: str


class Belief(Protocol):
    """Decides what of a store's results is taken for true, and signs those of this machine."""

    def believed(self, place: Store, kind: str, key: Digest) -> list[Known]:
        """The results that count. Raises ImageError where one of them is damaged."""
        ...

    def refused(self, place: Store, kind: str, key: Digest) -> list[Told]:
        """The results that do not count, with the reason; raises nothing for what is damaged."""
        ...

    def vouch(self, place: Store, kind: str, key: Digest, entry: Entry, *, late: bool = False) -> None:
        """Sign a result of this machine into the store, where a key signs here; ``late`` where it was known before."""
        ...


class Anybody:
    """Everything counts, and nothing is signed: for a store that is this process's alone."""

    def believed(self, place: Store, kind: str, key: Digest) -> list[Known]:
        """All results."""
        return [Known(entry, Origin(STORE, ANY)) for entry in results(place, kind, key).values()]

    def refused(self, place: Store, kind: str, key: Digest) -> list[Told]:
        """None."""
        return []

    def vouch(self, place: Store, kind: str, key: Digest, entry: Entry, *, late: bool = False) -> None:
        """Nothing."""


def folder_of(kind: str, key: Digest) -> str:
    """Where a store has what it knows of a key."""
    return f"keys/{kind}/{hex_of(key)}"


def results(place: Store, kind: str, key: Digest) -> dict[str, Entry]:
    """The results of a key in one place, by name. Raises ImageError for one that is damaged."""
    found: dict[str, Entry] = {}
    for name in place.keys(f"{folder_of(kind, key)}/results/"):
        try:
            entry = canonical.decode(place.read(name) or b"")
        except (ValueError, RecursionError):
            entry = None
        expected = name.rpartition("/")[2].removesuffix(".json")
        if not isinstance(entry, dict) or entry.get("digest") != f"sha256:{expected}":
            raise ImageError(
                f"{name} in {place.location} is damaged",
                hint="remove that file: what it stands for is then built again",
            )
        found[name] = entry
    return found
