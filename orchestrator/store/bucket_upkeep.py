"""Upkeep of a store in a bucket: what is there and how old, by the server's clock, hashing it, and taking it away.

No deletion is conditional, which few servers know: the protocol (docs/adr/0012) makes that needless. What it needs is
that a deletion which was not answered is over before its collection is, since the server may carry it out late.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from orchestrator.digest import Digest, of_hasher, parse_digest
from orchestrator.errors import StoreError
from orchestrator.ports_upkeep import Held
from orchestrator.store.bucket.client import Bucket, Upload
from orchestrator.store.bucket.transfer import RANGE, ahead, in_parallel
from orchestrator.store.fetching import blob_key
from orchestrator.store.packs import Packs

# Seconds for which a deletion that was not answered may still be under way: longer than any server or proxy waits.
LATE = 60.0
_BATCH = 500
_SWEEP_EVERY = 24 * 3600.0
_HASHING = 4  # blobs in memory at once, with at most RANGE bytes of each


def blobs(bucket: Bucket, packs: Packs) -> Iterator[Held]:
    """Every blob, in packs and by itself."""
    packs.refresh()
    yield from packs.held()
    yield from loose(bucket)


def loose(bucket: Bucket) -> Iterator[Held]:
    """Every blob that is an object of its own."""
    for found in bucket.listed("blobs/"):
        with suppress(StoreError):  # what others put there
            digest = parse_digest(f"sha256:{found.key.rpartition('/')[2]}")
            if found.key == blob_key(digest):
                yield Held(digest, found.size, found.age)


def hashed(bucket: Bucket, packs: Packs) -> Iterator[tuple[Held, bool]]:
    """Every blob, and whether the bucket's bytes of it are whole; one that goes meanwhile is passed over."""

    def whole(held: Held) -> bool | None:
        hasher, key = hashlib.sha256(), blob_key(held.digest)
        for start in range(0, max(1, held.size), RANGE):
            found = bucket.part(key, start, RANGE)
            if found is None:
                return None
            if found[1] != held.size:
                return False
            hasher.update(found[0])
        return of_hasher(hasher) == held.digest

    packs.refresh()
    yield from packs.hashed()
    with ThreadPoolExecutor(_HASHING) as pool:
        for held, state in ahead(pool, whole, loose(bucket), 2 * _HASHING):
            if state is not None:
                yield held, state


def begins(bucket: Bucket, packs: Packs, digest: Digest, size: int) -> bytes:
    """A blob's first bytes. Raises StoreError where it is missing."""
    found = bucket.part(blob_key(digest), 0, size)
    if found is None:
        if digest not in packs:
            packs.refresh()
        data = packs.begins(digest, size) if digest in packs else None
        if data is None:
            raise StoreError(f"{digest} is not in the store {bucket.place.uri}")
        return data
    return found[0]


def remove(
    bucket: Bucket, packs: Packs, digests: Iterable[Digest], before: Callable[[], None], integrity: str
) -> int:
    """Remove blobs wherever they lie; gives how many were there. Waits for what may still be under way."""
    going = frozenset(digests)
    packs.refresh()
    found: set[Digest] = {held.digest for held in packs.held()} & going
    unsure = 0.0  # when a deletion was not answered last

    def delete(digest: Digest) -> None:
        nonlocal unsure
        if not bucket.delete([blob_key(digest)]):
            unsure = time.monotonic()

    try:
        here = iter(_among(bucket, going, found))
        while batch := list(islice(here, _BATCH)):
            before()
            in_parallel(delete, batch)
            found.update(batch)
        for pack in packs.touched(going):
            before()
            if not packs.remove(pack, going, integrity):
                unsure = time.monotonic()
    finally:
        if unsure:
            time.sleep(max(0.0, LATE - (time.monotonic() - unsure)))
    return len(found)


def _among(bucket: Bucket, going: Set[Digest], packed: Set[Digest]) -> list[Digest]:
    """Those that are objects of their own; a few are not worth a listing: a deletion of nothing is fine."""
    if len(going) <= 32:
        return [
            digest for digest in going if digest not in packed or bucket.size(blob_key(digest)) is not None
        ]
    return [held.digest for held in loose(bucket) if held.digest in going]


def ages(bucket: Bucket, prefix: str) -> Iterator[tuple[str, float]]:
    """Keys with their ages."""
    for found in bucket.listed(prefix):
        yield found.key, found.age


def sweep(bucket: Bucket, packs: Packs, older_than: float, *, pretend: bool) -> tuple[int, int]:
    """End uploads that nobody ended, and remove halves of packs and what probes left, older than that many seconds."""
    count = size = 0
    for upload in list(bucket.uploads("blobs/")):
        if upload.age >= older_than:
            size += _taken(bucket, upload)
            if not pretend:
                bucket.abort(upload.key, upload.id)
            count += 1
    packs.refresh()
    left = {key for key, age in packs.left() if age >= older_than}
    for found in [*bucket.listed("packs/"), *bucket.listed("probe/")]:
        if found.key in left or (found.key.startswith("probe/") and found.age >= older_than):
            if not pretend:
                bucket.delete([found.key])
            count, size = count + 1, size + found.size
    return count, size


def _taken(bucket: Bucket, upload: Upload) -> int:
    """How many bytes an upload holds; none where it ends in this moment."""
    with suppress(StoreError):
        page = bucket.call(
            "list_parts", "list the parts of an upload", Key=bucket.full(upload.key), UploadId=upload.id
        )
        return sum(int(part["Size"]) for part in page.get("Parts", ()))
    return 0


def is_time(stamp: Path) -> bool:
    """Whether a day has gone since this was last asked about a file, which is touched."""
    with suppress(FileNotFoundError):
        if time.time() - stamp.stat().st_mtime < _SWEEP_EVERY:
            return False
    stamp.touch()
    return True
