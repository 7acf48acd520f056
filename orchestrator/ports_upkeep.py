"""The part of the store's seam that upkeep needs: what is there and how old, and taking it away.

Only `orchestrator/upkeep/` and sessions use it. Few words, each of which a bucket has too: PUT, DELETE, and
ListObjectsV2 with its sizes and LastModified.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.digest import Digest

# An object that is written anew whenever somebody finds a blob missing or damaged: as long as it is the same, what was
# in the store before is taken to be there still.
DOUBT = "gc/doubt.json"


@dataclass(frozen=True)
class Held:
    """A blob that a store has: bytes, and seconds since it was written, by the clock of the store's server."""

    digest: Digest
    size: int
    age: float


class Upkeep(Protocol):
    """What a store can do beyond giving and taking. All calls raise StoreError."""

    @property
    def collected(self) -> bool:
        """Whether garbage may be collected here: where it may not, nothing that is written can go, and no writer waits."""

    def blobs(self) -> Iterator[Held]:
        """Every blob, in no order. What is written or removed meanwhile may be among them or not.

        A blob inside a pack counts by itself; its age is the pack's.
        """

    def remove(self, digests: Iterable[Digest]) -> int:
        """Remove blobs; those that are not there are fine. Gives how many there were, as far as can be told.

        Only the collector calls it, after its protocol allows it. A packed blob may stay until its pack goes.
        """

    def ages(self, prefix: str) -> Iterator[tuple[str, float]]:
        """The keys below a prefix with the seconds since each was written, by the clock of the store's server."""

    def replace(self, key: str, data: bytes, *, durable: bool = False) -> None:
        """Write an object whether it exists or not, whole: a reader sees the old bytes or the new ones.

        A reader who begins afterwards sees the new ones. ``durable``: also after a power cut. For `gc/`,
        and for a damaged object that is restored: everything else is created at most once.
        """

    def discard(self, key: str) -> None:
        """Remove an object; missing is fine. For `gc/` only."""

    def sweep(self, older_than: float, *, pretend: bool) -> tuple[int, int]:
        """Remove what dead writers left unfinished (staged files, uploads), older than that many seconds.

        Gives how many and their bytes; with ``pretend`` nothing is removed.
        """
