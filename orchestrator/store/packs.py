"""Packs: many small blobs of a bucket in one object, with an index of where each of them lies in it.

`packs/sha256/<digest of the pack>` and, created after it, the same with `.idx`: what an index names is there. A pack is
only a way to carry blobs; their digests stay, and whoever takes one out verifies it.
"""

from __future__ import annotations

import mmap
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from io import FileIO
from queue import SimpleQueue
from typing import NamedTuple

from orchestrator.digest import Digest, hex_of, of_bytes, of_hasher, sha256
from orchestrator.errors import StoreError
from orchestrator.ports_upkeep import Held
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.transfer import Changed, Gone, ahead, in_parallel, pour
from orchestrator.store.disk import told
from orchestrator.store.remembered import Remembered

SMALL = 1 << 20  # larger blobs are objects of their own
LEAST = 64  # fewer of them are not packed
_PACK = 8 << 20
_AT_ONCE = 6  # packs that are made and sent: one is hashed while others are on their way
_LARGEST = 32 << 20  # bytes that a pack of any writer may have
_MOST = 100_000  # blobs in one pack
_INDEX = 16 << 20  # bytes of an index; of so many blobs it has half of that
_SPAN = 8 << 20  # bytes of a pack that are asked for at once
_READERS = 6  # spans that are on their way at once
HELD = 2  # rooms that whoever fetches may hold beside the one that he was given last
_GAP = 128 << 10  # bytes that nobody wants, and that cost less than another request
TOP = "packs/sha256/"
_HEAD = b"mirage-pack/1\n"
_LINE = re.compile(rb"([0-9a-f]{64}) (0|[1-9][0-9]{0,11}) (0|[1-9][0-9]{0,7})")


class _Place(NamedTuple):
    pack: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class Part(NamedTuple):
    """Where a blob lies in a room: ``start`` and ``size`` in bytes."""

    digest: Digest
    start: int
    size: int


class Room:
    """Memory for a span of a pack, which another process can be given as an open file (memfd_create(2))."""

    def __init__(self, free: SimpleQueue[Room]) -> None:
        self._free = free
        self._file = FileIO(_descriptor(), "r+")
        self._file.truncate(_SPAN)
        self.memory = memoryview(mmap.mmap(self._file.fileno(), _SPAN))
        self.uses = 1  # how often it has to be freed until it is free

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._file.fileno()

    def free(self) -> None:
        """One of its uses is over; after the last it is used for another span."""
        self.uses -= 1
        if self.uses == 0:
            self.uses = 1
            self._free.put(self)

    def close(self) -> None:
        """Give it back."""
        self._file.close()
        self.memory = memoryview(b"")


class Packs:
    """The packs of one bucket; ``kept`` remembers their indices, which never change. Calls raise StoreError."""

    def __init__(self, bucket: Bucket, kept: Remembered) -> None:
        self._bucket = bucket
        self._kept = kept
        self._packs: dict[str, tuple[tuple[Digest, _Place], ...]] = {}
        self._places: dict[Digest, _Place] = {}
        self._ages: dict[str, float] = {}
        self._lock = threading.Lock()

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._places

    def size(self, digest: Digest) -> int | None:
        """A blob's size where a known pack has it."""
        place = self._places.get(digest)
        return None if place is None else place.size

    def forget(self) -> None:
        """Know of none."""
        with self._lock:
            self._packs.clear()
            self._places.clear()

    def refresh(self) -> None:
        """See which packs there are by now: one listing, and the indices that are new to this machine."""
        found = {each.key: each.age for each in self._bucket.listed(TOP)}
        # an index without its pack is what a removal left that did not come to its end
        there = {key for key in found if not key.endswith(".idx") and f"{key}.idx" in found}
        self._ages = found
        with self._lock:
            gone = [pack for pack in self._packs if pack not in there]
            for pack in gone:
                del self._packs[pack]
            if gone:
                self._places = {digest: place for each in self._packs.values() for digest, place in each}
            new = [pack for pack in there if pack not in self._packs]

        def load(pack: str) -> None:
            key = f"{pack}.idx"
            data = self._kept.read(key)
            if data is None:
                data = self._bucket.read(key, _INDEX)
                if data is None:
                    return  # removed in this moment
                self._take(pack, data)
                self._kept.add(key, data)
            else:
                self._take(pack, data)

        in_parallel(load, new)
        for pack in gone:
            self._kept.remove(f"{pack}.idx")

    def _take(self, pack: str, data: bytes) -> None:
        found = []
        lines = data.removeprefix(_HEAD).splitlines()
        for line in lines if data.startswith(_HEAD) else (b"",):
            match = _LINE.fullmatch(line)
            if match is None:
                raise StoreError(
                    f"{pack}.idx in {self._bucket.place.uri} is no index of a pack",
                    hint="remove that object: what only it names must be published again",
                )
            found.append((Digest(f"sha256:{match[1].decode()}"), _Place(pack, int(match[2]), int(match[3]))))
        if not _can_be(found):
            raise StoreError(
                f"{pack}.idx in {self._bucket.place.uri} says what no pack has",
                hint="remove that object: what only it names must be published again",
            )
        with self._lock:
            self._packs[pack] = tuple(found)
            self._places.update(found)

    def push(
        self,
        sizes: dict[Digest, int],
        fill: Callable[[Digest, memoryview], object],
        integrity: str,
        count: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Pack blobs in the order in which they come. ``fill`` writes a blob's verified bytes to the room that it is given;
        ``count`` hears of the bytes of each pack that is there.
        """
        rooms: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_AT_ONCE):
            # Its pages are used again, and given back in the end: what a thread allocates and frees stays with it.
            rooms.put(memoryview(mmap.mmap(-1, min(sum(sizes.values()), _PACK + SMALL) or 1)))

        def put(digests: list[Digest]) -> None:
            room = rooms.get()
            try:
                self._put([(digest, sizes[digest]) for digest in digests], fill, room, integrity)
            finally:
                rooms.put(room)
            count(sum(sizes[digest] for digest in digests))

        in_parallel(put, _filled(sizes), _AT_ONCE)

    def _put(
        self,
        blobs: Sequence[tuple[Digest, int]],
        fill: Callable[[Digest, memoryview], object],
        room: memoryview,
        integrity: str,
    ) -> str:
        """One pack, put together in ``room``, and after it its index; gives its key."""
        lines, start, hasher = [_HEAD], 0, sha256()
        for digest, size in blobs:
            place = room[start : start + size]
            fill(digest, place)
            hasher.update(place)
            lines.append(f"{hex_of(digest)} {start} {size}\n".encode())
            start += size
        name, index = of_hasher(hasher), b"".join(lines)
        key = TOP + hex_of(name)
        self._bucket.put(key, room[:start], name, integrity)
        self._bucket.put(f"{key}.idx", index, of_bytes(index), integrity)
        self._take(key, index)
        return key

    @contextmanager
    def fetch(self, wanted: Iterable[Digest]) -> Iterator[Iterator[tuple[list[Part], Room | None]]]:
        """Blobs that known packs have, neighbours together: where each lies in a room, which the caller frees.

        He verifies them, and holds HELD rooms at most when he asks for more. No room where the pack is there no longer:
        what lay in it may be in another one by now.
        """
        spans = list(self._spans(wanted))
        ends = {pack: places[-1][1].end for pack, places in self._packs.items() if places}
        free: SimpleQueue[Room] = SimpleQueue()
        over = threading.Event()

        def get(span: list[tuple[_Place, Digest]]) -> Room | None:
            room, pack, begin, end = free.get(), span[0][0].pack, span[0][0].start, span[-1][0].end

            def into(piece: bytes, at: int) -> None:
                check()
                room.memory[at - begin : at - begin + len(piece)] = piece

            try:
                pour(self._bucket, pack, begin, end, ends[pack], into, check)
            except Gone:
                room.free()
                return None
            except Changed as error:
                raise self._other(pack) from error
            return room

        def check() -> None:
            if over.is_set():
                raise StoreError("nobody waits for it any more")

        with ExitStack() as rooms:
            # All that can be in use at once, so that none waits for one: some come, one is given, the caller has some.
            with told("make room for what comes"):
                for _ in range(min(len(spans), _READERS + 1 + HELD)):
                    free.put(rooms.enter_context(closing(Room(free))))
            with ThreadPoolExecutor(_READERS) as pool:
                try:
                    yield (
                        ([Part(digest, at.start - span[0][0].start, at.size) for at, digest in span], room)
                        for span, room in ahead(pool, get, spans, _READERS)
                    )
                finally:
                    over.set()

    def begins(self, digest: Digest, size: int) -> bytes | None:
        """The first bytes of a blob that a known pack has; None where the pack is there no longer."""
        place = self._places[digest]
        length = min(size, place.size)
        found = self._bucket.part(place.pack, place.start, length) if length else (b"", 0)
        if found is not None and len(found[0]) != length:
            raise self._other(place.pack)
        return None if found is None else found[0]

    def _other(self, pack: str) -> StoreError:
        return StoreError(
            f"{pack} in {self._bucket.place.uri} is not what its index says",
            hint="restore it from another copy of the store, or publish what it held again",
        )

    # --- upkeep -------------------------------------------------------------------------------------------

    def held(self) -> Iterator[Held]:
        """Every blob in every pack, as of the last ``refresh``."""
        for pack, places in list(self._packs.items()):
            for digest, place in places:
                yield Held(digest, place.size, self._ages.get(pack, 0.0), pack)

    def left(self) -> Iterator[tuple[str, float]]:
        """Packs without an index, and indices without a pack, with their ages, as of the last ``refresh``."""
        for key, age in self._ages.items():
            if (key.removesuffix(".idx") if key.endswith(".idx") else f"{key}.idx") not in self._ages:
                yield key, age

    def hashed(self) -> Iterator[tuple[Held, bool]]:
        """Every blob in every pack, and whether its bytes are what its digest says; two packs in memory at once."""

        def read(pack: str) -> bytes | None:
            found = self._bucket.part(pack, 0, _LARGEST)
            return None if found is None else found[0]

        with ThreadPoolExecutor(2) as pool:
            for pack, data in ahead(pool, read, list(self._packs), 2):
                for digest, place in () if data is None else self._packs.get(pack, ()):
                    assert data is not None
                    whole = of_bytes(data[place.start : place.start + place.size]) == digest
                    yield Held(digest, place.size, self._ages.get(pack, 0.0), pack), whole

    def touched(self, going: Set[Digest]) -> list[str]:
        """The packs that have one of these."""
        return [pack for pack, places in self._packs.items() if any(digest in going for digest, _ in places)]

    def remove(self, pack: str, going: Set[Digest], integrity: str) -> bool:
        """Take these out of a pack: what stays is written to a new one before the old one goes, its index first.

        Gives whether each deletion was answered at once (Bucket.delete).
        """
        places = self._packs[pack]
        staying = [(digest, place) for digest, place in places if digest not in going]
        if staying:
            end = max(place.end for _, place in places)
            found = self._bucket.part(pack, 0, end) if end else (b"", 0)
            if found is None:
                return True  # somebody else was quicker
            data, places_of = memoryview(found[0]), dict(staying)

            def fill(digest: Digest, room: memoryview) -> None:
                # As they are: whoever reads them verifies them, and damaged bytes may be all that there is.
                room[:] = data[places_of[digest].start :][: len(room)]

            sizes = [(digest, place.size) for digest, place in staying]
            room = memoryview(bytearray(sum(size for _, size in sizes)))
            made = self._put(sizes, fill, room, integrity)
            if made == pack:  # only empty blobs went: its bytes are the same, its index is not
                self._kept.remove(f"{pack}.idx")
                return True
        sure = self._bucket.delete([f"{pack}.idx", pack])
        with self._lock:
            self._packs.pop(pack, None)
            self._places = {digest: place for each in self._packs.values() for digest, place in each}
        return sure

    def _spans(self, wanted: Iterable[Digest]) -> Iterator[list[tuple[_Place, Digest]]]:
        span: list[tuple[_Place, Digest]] = []
        for place, digest in sorted((self._places[digest], digest) for digest in wanted):
            if span and (
                place.pack != span[0][0].pack
                or place.start - span[-1][0].end > _GAP
                or place.end - span[0][0].start > _SPAN
            ):
                yield span
                span = []
            span.append((place, digest))
        if span:
            yield span


def _descriptor() -> int:
    """Of memory, or of a file without a name: a Python that was built for an old C library has no memfd_create."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mirage-span", os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


def _can_be(places: Sequence[tuple[Digest, _Place]]) -> bool:
    """Whether we could have written an index of these: each blob once and small, one behind the other."""
    end = 0
    for _, place in places:
        if place.start != end or place.size > SMALL:
            return False
        end += place.size
    return end <= _LARGEST and len({digest for digest, _ in places}) == len(places) <= _MOST


def _filled(sizes: dict[Digest, int]) -> Iterator[list[Digest]]:
    filled: list[Digest] = []
    total = 0
    for digest, size in sizes.items():
        if filled and (total + size > _PACK or len(filled) == _MOST):
            yield filled
            filled, total = [], 0
        filled.append(digest)
        total += size
    if filled:
        yield filled


def packable(sizes: dict[Digest, int]) -> dict[Digest, int]:
    """Those that are worth a pack: none, or at least LEAST."""
    small = {digest: size for digest, size in sizes.items() if size < SMALL}
    return small if len(small) >= LEAST else {}
