"""The store in a bucket: blobs by digest, objects created at most once by a conditional PUT.

Layout: docs/store.md, as in a folder. A folder store in the machine's cache holds what was fetched, and what is to be
pushed; blobs are in the bucket before any object that could name them is created.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.ports_upkeep import Held
from orchestrator.store.bucket.client import Bucket, quietly
from orchestrator.store.bucket.failures import BucketError
from orchestrator.store.bucket.probe import Promises, promises_of
from orchestrator.store.bucket.transfer import (
    IN_FLIGHT,
    SINGLE,
    Budget,
    LargeUpload,
    in_parallel,
)
from orchestrator.store.fetching import blob_key, fetched
from orchestrator.store.folder import FolderStore
from orchestrator.store.keys import FORMAT, check_format, check_key
from orchestrator.store.owed import Owed, OwedIntake, OwedWriter
from orchestrator.store.packs import LEAST, Packs, packable
from orchestrator.store.remembered import Remembered

# From this number on, asking for whole folders of blobs is cheaper than asking for each.
_MANY = 256
_FEW = 4000  # blobs; a store with fewer is listed in one go
# Unfinished uploads older than this, in seconds, have no living writer any more.
STALE = 7 * 24 * 3600.0
_SWEEP_EVERY = 24 * 3600.0


class S3Store:
    """A Store in a bucket; safe for any number of processes and machines at once."""

    def __init__(self, bucket: Bucket, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        self.bucket = bucket
        self.local = FolderStore.open_at(folder)
        self._side = folder / "bucket"
        self._side.mkdir(exist_ok=True)
        self._owed = Owed(self._side / "owed")
        self._seen = Remembered(self._side / "seen")
        self._later = Remembered(self._side / "later")
        self._packs = Packs(bucket, self._seen)
        self._tell = tell
        self._there: set[Digest] = set()  # seen in the bucket by this process
        self._pushing = threading.RLock()
        self._promises: Promises | None = None
        self.away = False  # whether the bucket was asked in vain

    @property
    def location(self) -> str:
        """The URI."""
        return self.bucket.place.uri

    @property
    def folder(self) -> Path:
        """Where this machine keeps what it fetched, and what it has not pushed yet."""
        return Path(self.local.location)

    @classmethod
    def open_at(
        cls, bucket: Bucket, stores: Path, tell: Callable[[str], None] = lambda text: None
    ) -> S3Store:
        """Open the store, making it where there is none; ``stores`` holds a folder for each bucket and prefix.

        ``tell`` hears it once where the bucket does not answer, and what this machine remembers is used.
        Raises StoreError where the bucket cannot be used, or holds a store of another format.
        """
        store = cls(bucket, stores / hashlib.sha256(bucket.address.encode()).hexdigest()[:24], tell)
        described = store.read("store.json")
        if described is None:
            store._make()
            described = store.read("store.json")
        check_format(described, store.location, "prefix")
        store._owed.adopt()
        return store

    def _make(self) -> None:
        import secrets

        self.create("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self.create("store.json", canonical.encode({"format": FORMAT, "id": secrets.token_hex(16)}))

    def promises(self) -> Promises:
        """What the bucket was found to promise; asked before the first write. Raises StoreError where too little."""
        if self._promises is None:
            found = promises_of(self.bucket, self.folder.parent / "probes")
            if found.problem is not None:
                raise StoreError(
                    f"no store can be kept in {self.location}: its server {found.problem}",
                    hint="use a server that honours conditional writes (docs/store.md lists some), or a folder",
                )
            self._promises = found
            self._sweep_daily()
        return self._promises

    # --- blobs --------------------------------------------------------------------------------------------

    def has(self, digest: Digest) -> bool:
        """Whether the blob is in the bucket, or is going to be before anything names it."""
        parse_digest(digest)
        if digest in self._there or (digest in self._owed and self.local.has(digest)):
            return True
        try:
            if self.bucket.size(blob_key(digest)) is None:
                if digest not in self._packs:
                    self._packs.refresh()
                if digest not in self._packs:
                    return False
        except BucketError as error:
            if not self.local.has(digest):
                raise
            self._remembering(error)
            return True
        self._there.add(digest)
        return True

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading; it is fetched, whole and verified, where this machine does not have it."""
        parse_digest(digest)
        if not self.local.has(digest):
            self.fetch([digest])
        return self.local.open(digest)

    def put(self, data: bytes) -> Digest:
        """Keep small bytes as a blob."""
        digest = self.local.put(data)
        self._owed.add([digest])
        return digest

    @contextmanager
    def writer(self) -> Iterator[OwedWriter]:
        """Write a blob of any size; without a commit nothing stays behind."""
        with self.local.writer() as writer:
            yield OwedWriter(writer, self._owed)

    @contextmanager
    def intake(self, *, link: bool = False) -> Iterator[OwedIntake]:
        """Take many files, which are durable and visible when this is left without an error."""
        with self.local.intake(link=link) as intake:
            inner = OwedIntake(intake)
            yield inner
            self._owed.add(inner.digests)

    def put_file(self, path: Path, *, digest: Digest, link: bool) -> None:
        """Keep a file whose digest is known."""
        self.local.put_file(path, digest=digest, link=link)
        self._owed.add([digest])

    def materialise(self, digest: Digest, target: Path, *, executable: bool) -> None:
        """Make the blob appear at ``target``, verified; damage in this machine's copy is mended from the bucket."""
        parse_digest(digest)
        if not self.local.has(digest):
            self.fetch([digest])
        try:
            self.local.materialise(digest, target, executable=executable)
        except StoreError:
            if self.local.has(digest):
                raise
            self.fetch([digest])
            self.local.materialise(digest, target, executable=executable)

    # --- objects ------------------------------------------------------------------------------------------

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists; every blob of this process is in the bucket before.

        What a key led to is no claim on a name: where the bucket is away it waits here, and this says True.
        """
        check_key(key)
        try:
            promises = self.promises()
            self.push_owed()
            made = self.bucket.create(key, data, promises.condition)
        except BucketError as error:
            if not key.startswith("keys/"):
                raise
            self._remembering(error)
            self._later.add(key, data)
            return True
        if made:
            self._seen.add(key, data)
        return made

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None; as this machine saw them last, where the bucket does not answer."""
        check_key(key)
        try:
            data = self.bucket.read(key)
        except BucketError as error:
            self._remembering(error)
            kept = self._later.read(key) or self._seen.read(key)
            # An image is made again; and a version was not given up, as far as this machine knows.
            if kept is None and not key.startswith(("keys/", "tombstones/")):
                raise
            return kept
        if data is not None:
            self._seen.add(key, data)
        return data

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in bytewise order; what others put there is passed over.

        Where the bucket does not answer: those that this machine saw.
        """
        check_key(prefix.rstrip("/"))
        found = []
        try:
            for key, _ in self.bucket.list(prefix):
                with suppress(StoreError):
                    check_key(key)
                    found.append(key)
        except BucketError as error:
            self._remembering(error)
            found = [*{*self._seen.keys(prefix), *self._later.keys(prefix)}]
        yield from sorted(found)

    def _remembering(self, error: BucketError) -> None:
        """Go on with what this machine knows, and say so once; raises what will not pass by itself."""
        if not error.passing:
            raise error
        if not self.away:
            self.away = True
            self._tell(f"{error.message}; going on with what this machine knows of {self.location}")

    # --- transfers ----------------------------------------------------------------------------------------

    def push_owed(self) -> None:
        """Push every blob that this process kept, or took over from a dead one. Raises StoreError."""
        with self._pushing:
            owed = self._owed.all()
            if owed:
                self.push([digest for digest in owed if digest not in self._there])
                self._owed.settle(owed)
            for key in list(self._later.keys("")):
                data = self._later.read(key)
                if data is not None:
                    self.bucket.create(key, data, self.promises().condition)
                self._later.remove(key)

    def waiting(self) -> int:
        """How many blobs and objects of this machine are still to go to the bucket."""
        return len(self._owed.all()) + sum(1 for _ in self._later.keys(""))

    def push(self, digests: Iterable[Digest]) -> None:
        """Put blobs of this machine into the bucket, in parallel, where they are not there yet. Raises StoreError."""
        promises, budget = self.promises(), Budget(IN_FLIGHT)
        sizes = {}
        for digest in dict.fromkeys(digests):
            with suppress(FileNotFoundError):
                sizes[digest] = self.local.blob_path(digest).stat().st_size
            # a missing one was owed by a process that died before it was kept, so nothing names it
        absent = self._absent(sizes)
        large = [digest for digest in absent if sizes[digest] > SINGLE]
        small = packable({digest: sizes[digest] for digest in absent})
        self._packs.push(small, self._whole, promises.integrity, budget)

        def put(digest: Digest) -> None:
            with budget.taken(sizes[digest]):
                data = self._whole(digest)
                self.bucket.put(blob_key(digest), data, digest, promises.integrity)

        in_parallel(put, [digest for digest in absent if sizes[digest] <= SINGLE and digest not in small])
        notes = self._side / "uploads"
        if large:
            notes.mkdir(exist_ok=True)
        for digest in large:
            upload = LargeUpload(
                self.bucket, blob_key(digest), self.local.blob_path(digest), digest, promises.integrity
            )
            upload.run(notes / hex_of(digest), budget)
        self._there.update(sizes)

    def _whole(self, digest: Digest) -> bytes:
        """The bytes of this machine's copy. Raises StoreError where they are damaged."""
        path = self.local.blob_path(digest)
        data = path.read_bytes()
        if of_bytes(data) != digest:
            raise StoreError(
                f"{path} is damaged: its bytes hash to {of_bytes(data)}",
                hint="remove that file, and publish the artifact again",
            )
        return data

    def _absent(self, sizes: dict[Digest, int]) -> list[Digest]:
        """Those that the bucket does not have in their full size."""
        if len(sizes) >= LEAST:
            self._packs.refresh()
        left = {digest: size for digest, size in sizes.items() if self._packs.size(digest) != size}
        listed: dict[str, int] = {}
        if len(left) >= _MANY:
            listed.update(islice(self.bucket.list("blobs/"), _FEW))
            if len(listed) == _FEW:  # a large store: only the folders that matter

                def look(folder: str) -> None:
                    listed.update(self.bucket.list(folder))

                in_parallel(look, sorted({blob_key(digest).rpartition("/")[0] + "/" for digest in left}))
        else:

            def ask(digest: Digest) -> None:
                size = self.bucket.size(blob_key(digest))
                if size is not None:
                    listed[blob_key(digest)] = size

            in_parallel(ask, left)
        return [digest for digest, size in left.items() if listed.get(blob_key(digest)) != size]

    def fetch(self, digests: Iterable[Digest]) -> None:
        """Bring blobs to this machine, in parallel and verified; those that are here cost a stat.

        What came before a failure stays. Raises StoreError where one is missing or damaged.
        """
        wanted = [digest for digest in dict.fromkeys(digests) if not self.local.has(digest)]
        for digest in fetched(self.bucket, self.local, self._packs, wanted):
            self._there.add(digest)

    # --- upkeep -------------------------------------------------------------------------------------------

    @property
    def collected(self) -> bool:
        """Not yet: nothing that is written goes."""
        return False

    def _uncollected(self) -> StoreError:
        return StoreError(
            f"upkeep of a store in a bucket is not possible yet: {self.location}",
            hint="`mirage gc` and `mirage fsck` work on stores in a folder",
        )

    def blobs(self) -> Iterator[Held]:
        """Raises StoreError."""
        raise self._uncollected()

    def remove(self, digests: Iterable[Digest]) -> int:
        """Raises StoreError."""
        raise self._uncollected()

    def ages(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Raises StoreError."""
        raise self._uncollected()

    def replace(self, key: str, data: bytes, *, durable: bool = False) -> None:
        """Raises StoreError."""
        raise self._uncollected()

    def discard(self, key: str) -> None:
        """Raises StoreError."""
        raise self._uncollected()

    def sweep(self, older_than: float = STALE, *, pretend: bool = False) -> tuple[int, int]:
        """Abort uploads that were begun more than ``older_than`` seconds ago and never ended; their bytes are not told."""
        count = 0
        for upload in list(self.bucket.uploads("blobs/")):
            if time.time() - upload.begun.timestamp() >= older_than:
                if not pretend:
                    self.bucket.abort(upload.key, upload.id)
                count += 1
        return count, 0

    def _sweep_daily(self) -> None:
        stamp = self._side / "swept"
        with suppress(FileNotFoundError):
            if time.time() - stamp.stat().st_mtime < _SWEEP_EVERY:
                return
        stamp.touch()
        quietly(self.sweep)

    def close(self) -> None:
        """Let go of what this process holds; what it still owes is pushed by the next one that opens the store."""
        self._owed.close()
