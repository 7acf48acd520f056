"""Small blobs on their way out of the packs of a bucket into a folder; where they are many, a helper does some of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.digest import Digest
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.packs import HELD, Packs, Part, Room

if TYPE_CHECKING:
    from orchestrator.ports import Ahead
    from orchestrator.store.helping import Taker
    from orchestrator.store.intake import FolderIntake

WORTH = 1000  # so many blobs are worth a helper, whose start costs as much
_MESSAGE = 64  # blobs that a helper is told of at once: its answer is one message too, with a path for each


def unpacked(
    bucket: Bucket,
    packs: Packs,
    wanted: Sequence[Digest],
    intake: FolderIntake,
    gone: list[Digest],
    count: Callable[[int], object],
) -> Iterator[Digest]:
    """Take blobs out of packs; gives each as it came, and tells ``count`` of their bytes.

    Those whose pack went meanwhile are added to ``gone``. Raises StoreError where one is damaged.
    """
    work = _Unpacking(bucket, intake, count, len(wanted))
    try:
        with packs.fetch(wanted) as spans:
            for parts, room in spans:
                if room is None:
                    gone.extend(each.digest for each in parts)
                else:
                    yield from work.add(parts, room)
            yield from work.finish()
    finally:
        work.close()


class _Unpacking:
    """Spans, done by this process and a helper, who is given some whenever it has little to do."""

    def __init__(
        self, bucket: Bucket, intake: FolderIntake, count: Callable[[int], object], blobs: int
    ) -> None:
        self._bucket = bucket
        self._intake = intake
        self._count = count
        self._wanted = blobs >= WORTH
        self._helper: Taker | None = None
        self._sent: deque[tuple[Sequence[Part], Room]] = deque()  # to the helper, which has not answered yet

    def add(self, parts: Sequence[Part], room: Room) -> Iterator[Digest]:
        """The blobs in a room; gives those that are done by this."""
        batches = [parts[start : start + _MESSAGE] for start in range(0, len(parts), _MESSAGE)]
        room.uses = len(batches)
        if self._wanted:
            self._helper, self._wanted = self._intake.helper(), False
        for batch in batches:
            while self._helper is not None and self._sent and self._helper.answered():
                yield from self._settle(self._helper.answer())
            if self._helper is not None and self._helper.sent < HELD:
                self._helper.unpack(room.descriptor, [(each.start, each.size) for each in batch])
                self._sent.append((batch, room))
            else:
                yield from self._keep(batch, room, ())

    def finish(self) -> Iterator[Digest]:
        """Those that are not done yet."""
        while self._helper is not None and self._sent:
            yield from self._settle(self._helper.answer())

    def close(self) -> None:
        """End the helper, whatever was done."""
        if self._helper is not None:
            self._helper.close()

    def _settle(self, made: Sequence[Ahead | None]) -> Iterator[Digest]:
        yield from self._keep(*self._sent.popleft(), made)

    def _keep(self, parts: Sequence[Part], room: Room, made: Sequence[Ahead | None]) -> Iterator[Digest]:
        """``made``: what the helper made of them; what it could not do is done here."""
        for number, (digest, start, size) in enumerate(parts):
            ahead = made[number] if number < len(made) else None
            if ahead is None:
                found, _ = self._intake.add_bytes(room.memory[start : start + size])
            else:
                found, _ = self._intake.add(room.descriptor, size, ahead)
            if found != digest:
                raise damaged(self._bucket, digest, found)
            self._count(size)
            yield digest
        room.free()


def damaged(bucket: Bucket, digest: Digest, found: Digest) -> StoreError:
    """What to say of bytes that came from a bucket, and are not the blob's."""
    return StoreError(
        f"the store {bucket.place.uri} holds damaged bytes for {digest} (they hash to {found})",
        hint="restore the blob from another copy of the store, or publish the artifact again",
    )
