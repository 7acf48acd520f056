"""Blobs on their way from a bucket to this machine: some ranges at once, each blob whole and verified before it is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.transfer import RANGE, ranges
from orchestrator.store.folder import FolderStore

_AHEAD = 12  # ranges of RANGE bytes that are in memory at once while blobs are fetched
_T = TypeVar("_T")


def blob_key(digest: Digest) -> str:
    """Where a blob lies in a bucket."""
    name = hex_of(parse_digest(digest))
    return f"blobs/sha256/{name[:2]}/{name}"


def fetched(bucket: Bucket, local: FolderStore, wanted: list[Digest]) -> Iterator[Digest]:
    """Bring blobs to a folder; gives each as it came. What came before a failure stays.

    Raises StoreError where one is missing or damaged.
    """

    def first(digest: Digest) -> tuple[bytes, int] | None:
        return bucket.part(blob_key(digest), 0, RANGE)

    with local.intake() as intake, ThreadPoolExecutor(_AHEAD) as pool:
        try:
            for digest, found in _ahead(pool, first, wanted):
                if found is None:
                    raise StoreError(
                        f"{digest} is not in the store {bucket.place.uri}",
                        hint="was it removed by hand, or never pushed?",
                    )
                data, total = found
                if total > len(data):
                    _large(bucket, local, digest, data, total)
                else:
                    if of_bytes(data) != digest:
                        again = first(digest)
                        if again is None or of_bytes(again[0]) != digest:
                            raise _damaged(bucket, digest, of_bytes(data))
                        data = again[0]
                    intake.add_bytes(data)
                yield digest
        except BaseException:
            with suppress(StoreError):
                intake.flush()
            raise


def _large(bucket: Bucket, local: FolderStore, digest: Digest, first: bytes, total: int) -> None:
    with local.writer() as writer:
        for piece in ranges(bucket, blob_key(digest), first, total):
            writer.write(piece)
        if writer.digest() != digest:
            raise _damaged(bucket, digest, writer.digest())
        writer.commit()


def _damaged(bucket: Bucket, digest: Digest, found: Digest) -> StoreError:
    return StoreError(
        f"the store {bucket.place.uri} holds damaged bytes for {digest} (they hash to {found})",
        hint="restore the blob from another copy of the store, or publish the artifact again",
    )


def _ahead(
    pool: ThreadPoolExecutor, action: Callable[[Digest], _T], digests: list[Digest]
) -> Iterator[tuple[Digest, _T]]:
    """The action's results in order, a few of them worked on ahead."""
    coming: deque[tuple[Digest, Future[_T]]] = deque()
    rest = iter(digests)
    try:
        while True:
            while len(coming) < _AHEAD and (digest := next(rest, None)) is not None:
                coming.append((digest, pool.submit(action, digest)))
            if not coming:
                return
            digest, future = coming.popleft()
            yield digest, future.result()
    finally:
        for _, future in coming:
            future.cancel()
