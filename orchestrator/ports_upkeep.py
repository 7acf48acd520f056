"""The part of the store's seam that upkeep needs: what is there and how old, and taking it away.

Only `orchestrator/upkeep/` and sessions use it. Few words, each of which a bucket has too: PUT, DELETE, and
ListObjectsV2 with its sizes and LastModified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.digest import Digest

# An object that is written anew whenever somebody finds a blob missing or damaged: as long as it is the same, what was
# in the store before is taken to be there still.
DOUBT = "gc/doubt.json"


@dataclass(frozen=True)
class Held:
    """A blob that a store has: bytes, and seconds since it was written, by the clock of the store's server.

    ``pack`` names the object in which it lies with others, where there is one.
    """

    digest: Digest
    size: int
    age: float
    pack: str = ""


class Upkeep(Protocol):
    """What a store can do beyond giving and taking. All calls raise StoreError."""

    @property
    def collected(self) -> bool:
        """Whether garbage may be collected here: where it may not, nothing that is written can go, and no writer waits."""

    def insist(self) -> None:
        """From now on give nothing but the store's own answers: raise where it gives none.

        A store in a bucket otherwise goes on with what this machine remembers of it.
        """

    def since(self, state: str) -> None:
        """A session begins. ``state`` says what was collected until now: what was seen under another may be gone."""

    def pending(self) -> Iterable[Digest]:
        """Blobs that were written and are on their way; they are in the store before the next object is created."""

    def flush(self) -> None:
        """Nothing is on its way any more when this returns."""

    def blobs(self) -> Iterator[Held]:
        """Every blob, in no order. What is written or removed meanwhile may be among them or not.

        A blob inside a pack counts by itself; its age is the pack's. One that lies in two places comes twice.
        """

    def hashed(self) -> Iterator[tuple[Held, bool]]:
        """Every blob with whether its bytes, as the store itself has them, are those that its digest says."""

    def begins(self, digest: Digest, size: int) -> bytes:
        """A blob's first bytes, at most ``size``; nothing more of it is brought near. StoreError where it is missing."""

    def reads(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """``read`` of many objects, in the order of the keys; a bucket is asked for some at once."""

    def remove(self, digests: Iterable[Digest], before: Callable[[], None] = lambda: None) -> int:
        """Remove blobs; those that are not there are fine. Gives how many there were, as far as can be told.

        Only the collector calls it, after its protocol allows it, and `fsck` for damaged ones. ``before`` is called
        before every few hundred removals; what it raises ends them. What lies beside them in a pack stays.
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
