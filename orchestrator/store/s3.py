"""The store in a bucket: blobs by digest, objects created at most once by a conditional PUT.

Layout: docs/store.md, as in a folder. A folder store in the machine's cache holds what was fetched, and what is to be
pushed; blobs are in the bucket before any object that could name them is created.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orchestrator import canonical
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.ports_upkeep import Held
from orchestrator.store import bucket_upkeep, turns
from orchestrator.store.bounding import Bound
from orchestrator.store.bucket import kept
from orchestrator.store.bucket.client import Bucket, quietly
from orchestrator.store.bucket.failures import BucketError
from orchestrator.store.bucket.probe import Promises
from orchestrator.store.bucket.transfer import WORKERS, ahead
from orchestrator.store.fetching import blob_key, fetched
from orchestrator.store.folder import FolderStore
from orchestrator.store.keys import FORMAT, check_format, check_key
from orchestrator.store.owed import Owed, OwedIntake, OwedWriter
from orchestrator.store.packs import Packs
from orchestrator.store.pushing import Pusher
from orchestrator.store.remembered import MachineCopy, Remembered

if TYPE_CHECKING:
    from orchestrator.ports import Reporter

# Who asks for this many blobs one by one hears of the rest by a listing, of at most so many.
_ASKED, _FEW = 24, 100_000
# Unfinished uploads older than this, in seconds, have no living writer any more.
STALE = 7 * 24 * 3600.0
PROBES = "probes"  # beside the stores' folders: what their servers promise


class S3Store:
    """A Store in a bucket; safe for any number of processes and machines at once."""

    def __init__(self, bucket: Bucket, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        self.bucket = bucket
        self.local = FolderStore.open_at(folder)
        self._side = folder / "bucket"
        self._side.mkdir(exist_ok=True)
        self._owed = Owed(self._side / "owed")
        self._bound = Bound(folder.parent)
        self._seen = Remembered(self._side / "seen")
        self._later = Remembered(self._side / "later")
        self._packs = Packs(bucket, self._seen)
        self.watcher: Reporter | None = None  # who hears how far a push is
        self._there: set[Digest] = set()  # seen in the bucket by this process
        self._pusher = Pusher(bucket, self.local, self._packs, self._there, self._side / "uploads")
        self._tell = tell
        self._asked = 0  # how many blobs were looked for one by one
        self._as_of: str | None = None  # what had been collected when they were seen
        self._pushing = threading.RLock()
        self._promises: Promises | None = None
        self._insisting = False
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
            self._promises = kept.usable(self.bucket, self.folder.parent / PROBES)
            if bucket_upkeep.is_time(self._side / "swept"):
                quietly(self.sweep)
        return self._promises

    # --- blobs --------------------------------------------------------------------------------------------

    def has(self, digest: Digest) -> bool:
        """Whether the blob is in the bucket, or is going to be before anything names it."""
        parse_digest(digest)
        if digest in self._there or (digest in self._owed and self.local.has(digest)):
            return True
        try:
            if not self._look(digest):
                return False
        except BucketError as error:
            if self._insisting or not self.local.has(digest):
                raise
            self._remembering(error)
            self._owed.add([digest])  # it may have been collected, and is pushed again then
            return True
        self._there.add(digest)
        return True

    def _look(self, digest: Digest) -> bool:
        """Whether the bucket has a blob; who asks for many is answered from one listing."""
        self._asked += 1
        if self._asked == _ASKED:
            self._packs.refresh()
            self._there.update(held.digest for held in islice(bucket_upkeep.loose(self.bucket), _FEW))
        if digest in self._there or digest in self._packs or self.bucket.size(blob_key(digest)) is not None:
            return True
        self._packs.refresh()
        return digest in self._packs

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading; it is fetched, whole and verified, where this machine does not have it."""
        parse_digest(digest)
        self.fetch([digest])
        with suppress(StoreError):
            return self.local.open(digest)
        self.fetch([digest])  # another process made room this moment
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
            if not key.startswith("gc/"):
                self.push_owed()
            made = self.bucket.create(key, data, promises.condition)
        except BucketError as error:
            if not key.startswith("keys/"):
                raise
            self._remembering(error)
            self._later.add(key, data)
            return True
        if made and not key.startswith("gc/"):
            self._seen.add(key, data)
        return made

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None; as this machine saw them last, where the bucket does not answer."""
        check_key(key)
        if self._must_answer(key):
            return self.bucket.read(key)
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
            found = list(dict.fromkeys(found))
        except BucketError as error:
            if self._must_answer(prefix):
                raise
            self._remembering(error)
            found = [*{*self._seen.keys(prefix), *self._later.keys(prefix)}]
        yield from sorted(found)

    def _must_answer(self, key: str) -> bool:
        """Whether only the bucket can say it: what lies below `gc/` changes."""
        return self._insisting or key.startswith("gc/")

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
            later = list(self._later.keys(""))
            # Holds before what they hold: a collection that goes on sees one of them.
            for key in sorted(later, key=lambda key: not key.startswith("gc/")):
                if not key.startswith("gc/"):
                    break
                self._create_later(key)
            owed = self._owed.all()
            if owed:
                self._owed.check(self.local, self._look)
                self.push([digest for digest in owed if digest not in self._there])
                self._owed.settle(owed)
            for key in later:
                self._create_later(key)

    def _create_later(self, key: str) -> None:
        data = self._later.read(key)
        if data is not None:
            self.bucket.create(key, data, self.promises().condition)
        self._later.remove(key)

    def waiting(self) -> int:
        """How many blobs and objects of this machine are still to go to the bucket."""
        return len(self._owed.all()) + sum(1 for _ in self._later.keys(""))

    def push(self, digests: Iterable[Digest]) -> None:
        """Put blobs of this machine into the bucket, in parallel, where they are not there yet. Raises StoreError."""
        self._bound.came(self._pusher.push(digests, self.promises().integrity, self.watcher))

    def fetch(self, digests: Iterable[Digest], count: Callable[[int], object] = lambda size: None) -> None:
        """Bring blobs to this machine, in parallel and verified; those that are here cost a stat.

        What came before a failure stays. Raises StoreError where one is missing or damaged.
        """
        wanted = self._bound.missing(self.local, dict.fromkeys(digests))
        with self._bound.counting(count) as counted:
            for digest in fetched(self.bucket, self.local, self._packs, wanted, counted):
                self._there.add(digest)

    # --- upkeep -------------------------------------------------------------------------------------------

    @property
    def collected(self) -> bool:
        """It may: writers take part by sessions."""
        return True

    @property
    def copy(self) -> MachineCopy:
        """What this machine has of the store, to mend it from."""
        return MachineCopy(self.local, self._seen)

    def insist(self) -> None:
        """From now on nothing is answered from memory."""
        self._insisting = True

    def since(self, state: str) -> None:
        """Where something was collected since they were seen, blobs may be gone."""
        if state != self._as_of:
            self._there.clear()
            self._packs.forget()
            self._asked, self._as_of = 0, state

    def pending(self) -> Iterable[Digest]:
        """What is owed."""
        return self._owed.all()

    def flush(self) -> None:
        """Push what is owed."""
        self.push_owed()

    def blobs(self) -> Iterator[Held]:
        """Every blob, in no order."""
        return bucket_upkeep.blobs(self.bucket, self._packs)

    def hashed(self) -> Iterator[tuple[Held, bool]]:
        """Every blob, with whether the bucket's bytes of it are whole."""
        return bucket_upkeep.hashed(self.bucket, self._packs)

    def begins(self, digest: Digest, size: int) -> bytes:
        """A blob's first bytes."""
        if self.local.has(digest):
            return self.local.begins(digest, size)
        return bucket_upkeep.begins(self.bucket, self._packs, digest, size)

    def reads(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Many objects."""
        with ThreadPoolExecutor(WORKERS) as pool:
            yield from ahead(pool, self.read, keys, 4 * WORKERS)

    def remove(self, digests: Iterable[Digest], before: Callable[[], None] = lambda: None) -> int:
        """Remove blobs; what lies beside them in a pack is packed anew."""
        going = frozenset(digests)
        try:
            return bucket_upkeep.remove(self.bucket, self._packs, going, before, self.promises().integrity)
        finally:
            self._there.difference_update(going)

    def ages(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Keys with the seconds since each was written."""
        return bucket_upkeep.ages(self.bucket, prefix)

    def replace(self, key: str, data: bytes, *, durable: bool = False) -> None:
        """Write an object whether it exists or not. What a run holds waits here while the bucket is away."""
        check_key(key)
        try:
            sure = self.bucket.put(key, data, of_bytes(data), self.promises().integrity)
        except BucketError as error:
            if not key.startswith("gc/hold/"):
                raise
            self._remembering(error)
            self._later.add(key, data)
            self._owed.add(digest for digest in json.loads(data) if self.local.has(digest))
            return
        if key == turns.STATE and not sure:
            time.sleep(bucket_upkeep.LATE)  # an older phase must not come back in the next one

    def discard(self, key: str) -> None:
        """Remove an object; missing is fine."""
        self._later.remove(key)
        self.bucket.delete([key])

    def sweep(self, older_than: float = STALE, *, pretend: bool = False) -> tuple[int, int]:
        """End uploads that were begun more than ``older_than`` seconds ago, and remove halves of packs."""
        return bucket_upkeep.sweep(self.bucket, self._packs, older_than, pretend=pretend)

    def close(self) -> None:
        """Let go of what this process holds; what it still owes is pushed by the next one that opens the store."""
        self._owed.close()
