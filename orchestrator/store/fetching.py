"""Blobs on their way from a bucket to this machine: some ranges at once, each blob whole and verified before it is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.failures import BucketError
from orchestrator.store.bucket.transfer import RANGE, ahead, pour
from orchestrator.store.folder import FolderStore
from orchestrator.store.packs import LEAST, Packs
from orchestrator.store.unpacking import damaged, unpacked

if TYPE_CHECKING:
    from orchestrator.store.scattered import Scattered

# A large blob comes in extents of at most so many bytes, so many at once; the server has less to do for few long ones.
_EXTENT, _STREAMS = 64 << 20, 4
_AHEAD = 12  # ranges of RANGE bytes that are in memory at once while blobs are fetched


def blob_key(digest: Digest) -> str:
    """Where a blob lies in a bucket."""
    name = hex_of(parse_digest(digest))
    return f"blobs/sha256/{name[:2]}/{name}"


def fetched(
    bucket: Bucket,
    local: FolderStore,
    packs: Packs,
    wanted: list[Digest],
    count: Callable[[int], object] = lambda size: None,
) -> Iterator[Digest]:
    """Bring blobs to a folder; gives each as it came, and tells ``count`` of their bytes. What came before a failure stays.

    Raises StoreError where one is missing or damaged.
    """

    def first(digest: Digest) -> tuple[bytes, int] | None:
        return bucket.part(blob_key(digest), 0, RANGE)

    if len(wanted) >= LEAST:
        packs.refresh()
    packed = [digest for digest in wanted if digest in packs]
    loose = [digest for digest in wanted if digest not in packs]
    late = []
    with local.intake() as intake, ThreadPoolExecutor(_AHEAD) as pool:
        try:
            yield from unpacked(bucket, packs, packed, intake, loose, count)
            for digest, found in ahead(pool, first, loose, _AHEAD):
                if found is None:
                    late.append(digest)
                    continue
                data, total = found
                if total > len(data):
                    _large(bucket, local, digest, data, total, count)
                else:
                    if of_bytes(data) != digest:
                        again = first(digest)
                        if again is None or of_bytes(again[0]) != digest:
                            raise damaged(bucket, digest, of_bytes(data))
                        data = again[0]
                    intake.add_bytes(data)
                    count(len(data))
                yield digest
            if late:
                packs.refresh()
                missing = [digest for digest in late if digest not in packs]
                found_late = [each for each in late if each in packs]
                yield from unpacked(bucket, packs, found_late, intake, missing, count)
                if missing:
                    raise StoreError(
                        f"{missing[0]} is not in the store {bucket.place.uri}",
                        hint="was it removed by hand, or never pushed?",
                    )
        except BaseException:
            with suppress(StoreError):
                intake.flush()
            raise


def _large(
    bucket: Bucket,
    local: FolderStore,
    digest: Digest,
    first: bytes,
    total: int,
    count: Callable[[int], object],
) -> None:
    """Fetch a blob in streams; where it comes to an end before its time, another process goes on with what came."""
    extent = min(_EXTENT, max(1, -(-total // (_STREAMS * 2 * RANGE))) * RANGE)
    while True:
        with local.scattered(digest, total, extent) as staged:
            found = _streamed(bucket, blob_key(digest), staged, first, count)
            if found == digest:
                staged.commit()
                return
            if not staged.resumed:
                raise damaged(bucket, digest, found)
            count = _uncounted
            # what was left of it may not have been on the disk yet when the power went: all of it once more


def _uncounted(size: int) -> None:
    """Bytes that were counted before."""


def _streamed(
    bucket: Bucket, key: str, staged: Scattered, first: bytes, count: Callable[[int], object]
) -> Digest:
    """All that is missing of an object, which begins with ``first``; gives the digest of the whole."""
    taking = threading.Lock()

    def work(left: Iterator[tuple[int, int]]) -> None:
        # each stream takes the next extent: how many there are is what the server says
        try:
            with staged.stream():
                while True:
                    with taking:
                        extent = next(left, None)
                    if extent is None:
                        return
                    pour(bucket, key, *extent, staged.size, staged.write_at, staged.check)
        except BaseException as error:
            staged.fail(error)

    try:
        with ThreadPoolExecutor(_STREAMS) as pool:
            try:
                if not staged.resumed:
                    staged.write_at(first, 0)
                left = staged.missing()
                for _ in range(_STREAMS):
                    pool.submit(work, left)
                return staged.follow(count)
            except BaseException as error:
                staged.fail(error)
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BaseException as error:
        if isinstance(error, BucketError) or not isinstance(error, Exception):
            staged.spare()
        raise
