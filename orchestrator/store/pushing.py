"""Blobs on their way from this machine to a bucket: what is there is not sent, small ones go in packs, large ones in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import StoreError
from orchestrator.progress import measured
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.transfer import IN_FLIGHT, SINGLE, Budget, LargeUpload, in_parallel
from orchestrator.store.fetching import blob_key
from orchestrator.store.folder import FolderStore
from orchestrator.store.packs import LEAST, Packs, packable

if TYPE_CHECKING:
    from orchestrator.ports import Reporter

# From this number on, asking for whole folders of blobs is cheaper than asking for each.
_MANY = 256
_FEW = 4000  # blobs; a store with fewer is listed in one go


class Pusher:
    """Puts blobs of a folder into a bucket. ``there``: those that were seen in it; ``notes``: a folder about uploads."""

    def __init__(
        self, bucket: Bucket, local: FolderStore, packs: Packs, there: set[Digest], notes: Path
    ) -> None:
        self._bucket = bucket
        self._local = local
        self._packs = packs
        self._there = there
        self._notes = notes

    def push(self, digests: Iterable[Digest], integrity: str, watcher: Reporter | None = None) -> int:
        """Put them into the bucket, in parallel, where they are not there yet; ``watcher`` hears how far it is.

        Gives their bytes. Raises StoreError.
        """
        budget, sizes = Budget(IN_FLIGHT), {}
        for digest in dict.fromkeys(digests):
            with suppress(FileNotFoundError):
                sizes[digest] = self._local.blob_path(digest).stat().st_size
            # a missing one was owed by a process that died before it was kept, so nothing names it
        absent = self._absent(sizes)
        with measured(watcher, "push", sum(sizes[digest] for digest in absent)) as count:
            self._send(absent, sizes, integrity, budget, count)
        self._there.update(sizes)
        return sum(sizes[digest] for digest in absent)

    def _send(
        self,
        absent: list[Digest],
        sizes: dict[Digest, int],
        integrity: str,
        budget: Budget,
        count: Callable[[int], object],
    ) -> None:
        large = [digest for digest in absent if sizes[digest] > SINGLE]
        small = packable({digest: sizes[digest] for digest in absent})
        self._packs.push(small, self._fill, integrity, count)

        def put(digest: Digest) -> None:
            with budget.taken(sizes[digest]):
                self._bucket.put(blob_key(digest), self._whole(digest), digest, integrity)
            count(sizes[digest])

        in_parallel(put, [digest for digest in absent if sizes[digest] <= SINGLE and digest not in small])
        if large:
            self._notes.mkdir(exist_ok=True)
        for digest in large:
            upload = LargeUpload(
                self._bucket, blob_key(digest), self._local.blob_path(digest), digest, integrity
            )
            upload.run(self._notes / hex_of(digest), budget, count)

    def _whole(self, digest: Digest) -> bytes:
        """The bytes of this machine's copy. Raises StoreError where they are damaged."""
        path = self._local.blob_path(digest)
        data = path.read_bytes()
        if of_bytes(data) != digest:
            raise _damaged(path, of_bytes(data))
        return data

    def _fill(self, digest: Digest, room: memoryview) -> None:
        """Write the bytes of this machine's copy to memory of their size. Raises StoreError where they are damaged."""
        path = self._local.blob_path(digest)
        with path.open("rb", buffering=0) as source:
            size = 0
            while size < len(room) and (got := source.readinto(room[size:])):
                size += got
        if of_bytes(room) != digest:
            raise _damaged(path, of_bytes(room[:size]))

    def _absent(self, sizes: dict[Digest, int]) -> list[Digest]:
        """Those that the bucket does not have in their full size."""
        if len(sizes) >= LEAST:
            self._packs.refresh()
        left = {digest: size for digest, size in sizes.items() if self._packs.size(digest) != size}
        listed: dict[str, int] = {}
        if len(left) >= _MANY:
            listed.update(islice(self._bucket.list("blobs/"), _FEW))
            if len(listed) == _FEW:  # a large store: only the folders that matter

                def look(folder: str) -> None:
                    listed.update(self._bucket.list(folder))

                in_parallel(look, sorted({blob_key(digest).rpartition("/")[0] + "/" for digest in left}))
        else:

            def ask(digest: Digest) -> None:
                size = self._bucket.size(blob_key(digest))
                if size is not None:
                    listed[blob_key(digest)] = size

            in_parallel(ask, left)
        return [digest for digest, size in left.items() if listed.get(blob_key(digest)) != size]


def _damaged(path: Path, found: Digest) -> StoreError:
    return StoreError(
        f"{path} is damaged: its bytes hash to {found}",
        hint="remove that file, and publish the artifact again",
    )
