"""Packs: many small blobs of a bucket in one object, with an index of where each of them lies in it.

`packs/sha256/<digest of the pack>` and, created after it, the same with `.idx`: what an index names is there. A pack is
only a way to carry blobs; their digests stay, and whoever takes one out verifies it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.transfer import Budget, ahead, in_parallel
from orchestrator.store.remembered import Remembered

SMALL = 1 << 20  # larger blobs are objects of their own
LEAST = 64  # fewer of them are not packed
_PACK = 16 << 20
_SPAN = 8 << 20  # bytes of a pack that are asked for at once
_GAP = 128 << 10  # bytes that nobody wants, and that cost less than another request
_TOP = "packs/sha256/"
_HEAD = b"mirage-pack/1\n"
_LINE = re.compile(rb"([0-9a-f]{64}) (0|[1-9][0-9]{0,11}) (0|[1-9][0-9]{0,7})")


class _Place(NamedTuple):
    pack: str
    start: int
    size: int


class Packs:
    """The packs of one bucket; ``kept`` remembers their indices, which never change. Calls raise StoreError."""

    def __init__(self, bucket: Bucket, kept: Remembered) -> None:
        self._bucket = bucket
        self._kept = kept
        self._known: set[str] = set()
        self._places: dict[Digest, _Place] = {}

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._places

    def size(self, digest: Digest) -> int | None:
        """A blob's size where a known pack has it."""
        place = self._places.get(digest)
        return None if place is None else place.size

    def refresh(self) -> None:
        """See which packs there are by now: one listing, and the indices that are new to this machine."""
        new = [key for key, _ in self._bucket.list(_TOP) if key.endswith(".idx") and key not in self._known]

        def load(key: str) -> None:
            data = self._kept.read(key)
            if data is None:
                data = self._bucket.read(key) or b""
                self._take(key, data)
                self._kept.add(key, data)
            else:
                self._take(key, data)

        in_parallel(load, new)

    def _take(self, key: str, data: bytes) -> None:
        pack = key.removesuffix(".idx")
        found = {}
        lines = data.removeprefix(_HEAD).splitlines()
        for line in lines if data.startswith(_HEAD) else (b"",):
            match = _LINE.fullmatch(line)
            if match is None:
                raise StoreError(
                    f"{key} in {self._bucket.place.uri} is no index of a pack",
                    hint="remove that object: what only it names must be published again",
                )
            found[Digest(f"sha256:{match[1].decode()}")] = _Place(pack, int(match[2]), int(match[3]))
        self._places.update(found)
        self._known.add(key)

    def push(
        self, sizes: dict[Digest, int], read: Callable[[Digest], bytes], integrity: str, budget: Budget
    ) -> None:
        """Pack blobs in the order in which they come; ``read`` gives their verified bytes."""

        def put(digests: list[Digest]) -> None:
            with budget.taken(2 * sum(sizes[digest] for digest in digests)):
                lines, start, pieces = [_HEAD], 0, []
                for digest in digests:
                    pieces.append(read(digest))
                    lines.append(f"{hex_of(digest)} {start} {len(pieces[-1])}\n".encode())
                    start += len(pieces[-1])
                whole = b"".join(pieces)
                pieces.clear()
                name, index = of_bytes(whole), b"".join(lines)
                key = _TOP + hex_of(name)
                self._bucket.put(key, whole, name, integrity)
            self._bucket.put(f"{key}.idx", index, of_bytes(index), integrity)
            self._take(f"{key}.idx", index)

        in_parallel(put, _filled(sizes))

    def fetch(self, wanted: Iterable[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Blobs that known packs have, with their bytes, which the caller verifies; neighbours come together."""
        spans = list(self._spans(wanted))

        def get(span: list[tuple[_Place, Digest]]) -> bytes:
            first, last = span[0][0], span[-1][0]
            length = last.start + last.size - first.start
            found = self._bucket.part(first.pack, first.start, length) if length else (b"", 0)
            if found is None or len(found[0]) != length:
                raise StoreError(
                    f"{first.pack} is not whole in {self._bucket.place.uri}",
                    hint="restore it from another copy of the store, or publish what it held again",
                )
            return found[0]

        with ThreadPoolExecutor(6) as pool:
            for span, data in ahead(pool, get, spans, 6):
                begin = span[0][0].start
                for place, digest in span:
                    yield digest, data[place.start - begin : place.start - begin + place.size]

    def _spans(self, wanted: Iterable[Digest]) -> Iterator[list[tuple[_Place, Digest]]]:
        span: list[tuple[_Place, Digest]] = []
        for place, digest in sorted((self._places[digest], digest) for digest in wanted):
            if span and (
                place.pack != span[0][0].pack
                or place.start - (span[-1][0].start + span[-1][0].size) > _GAP
                or place.start + place.size - span[0][0].start > _SPAN
            ):
                yield span
                span = []
            span.append((place, digest))
        if span:
            yield span


def _filled(sizes: dict[Digest, int]) -> Iterator[list[Digest]]:
    filled: list[Digest] = []
    total = 0
    for digest, size in sizes.items():
        if filled and total + size > _PACK:
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
