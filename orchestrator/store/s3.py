"""The store in a bucket: blobs by digest, objects created at most once by a conditional PUT.

Layout: docs/store.md, as in a folder. A folder store in the machine's cache holds what was fetched, and what is to be
pushed; blobs are in the bucket before any object that could name them is created.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import Bucket, quietly
from orchestrator.store.bucket.probe import Promises, promises_of
from orchestrator.store.bucket.transfer import (
    IN_FLIGHT,
    RANGE,
    SINGLE,
    Budget,
    LargeUpload,
    in_parallel,
    ranges,
)
from orchestrator.store.folder import FolderStore
from orchestrator.store.keys import FORMAT, check_key
from orchestrator.store.owed import Owed
from orchestrator.store.staging import FolderIntake, Writer

# From this number on, asking for whole folders of blobs is cheaper than asking for each.
_MANY = 256
_AHEAD = 12  # ranges of RANGE bytes that are in memory at once while blobs are fetched
# Unfinished uploads older than this, in seconds, have no living writer any more.
STALE = 7 * 24 * 3600.0
_SWEEP_EVERY = 24 * 3600.0

_T = TypeVar("_T")


class S3Store:
    """A Store in a bucket; safe for any number of processes and machines at once."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket = bucket
        self.local = FolderStore.open_at(folder)
        self._side = folder / "bucket"
        self._side.mkdir(exist_ok=True)
        self._owed = Owed(self._side / "owed")
        self._there: set[Digest] = set()  # seen in the bucket by this process
        self._pushing = threading.RLock()
        self._promises: Promises | None = None

    @property
    def location(self) -> str:
        """The URI."""
        return self.bucket.place.uri

    @property
    def folder(self) -> Path:
        """Where this machine keeps what it fetched, and what it has not pushed yet."""
        return Path(self.local.location)

    @classmethod
    def open_at(cls, bucket: Bucket, stores: Path) -> S3Store:
        """Open the store, making it where there is none; ``stores`` holds a folder for each bucket and prefix.

        Raises StoreError where the bucket cannot be used, or holds a store of another format.
        """
        store = cls(bucket, stores / hashlib.sha256(bucket.address.encode()).hexdigest()[:24])
        described = store.read("store.json")
        if described is None:
            store._make()
            described = store.read("store.json")
        try:
            content = canonical.decode(described or b"")
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise StoreError(
                f"{store.location} holds a store of another format (expected {FORMAT})",
                hint="use the Mirage version that made it, or name another prefix under `store:`",
            )
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
        if self.bucket.size(_blob(digest)) is None:
            return False
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
    def writer(self) -> Iterator[_Writer]:
        """Write a blob of any size; without a commit nothing stays behind."""
        with self.local.writer() as writer:
            yield _Writer(writer, self._owed)

    @contextmanager
    def intake(self) -> Iterator[_Intake]:
        """Take many files, which are durable and visible when this is left without an error."""
        with self.local.intake() as intake:
            inner = _Intake(intake)
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
        """Create an object unless it exists; every blob of this process is in the bucket before."""
        check_key(key)
        promises = self.promises()
        self.push_owed()
        return self.bucket.create(key, data, promises.condition)

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None."""
        check_key(key)
        return self.bucket.read(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in bytewise order; what others put there is passed over."""
        check_key(prefix.rstrip("/"))
        found = []
        for key, _ in self.bucket.list(prefix):
            with suppress(StoreError):
                check_key(key)
                found.append(key)
        yield from sorted(found)

    # --- transfers ----------------------------------------------------------------------------------------

    def push_owed(self) -> None:
        """Push every blob that this process kept, or took over from a dead one. Raises StoreError."""
        with self._pushing:
            owed = self._owed.all()
            if owed:
                self.push([digest for digest in owed if digest not in self._there])
                self._owed.settle(owed)

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

        def put(digest: Digest) -> None:
            with budget.taken(sizes[digest]):
                data = self.local.blob_path(digest).read_bytes()
                if of_bytes(data) != digest:
                    raise StoreError(
                        f"{self.local.blob_path(digest)} is damaged: its bytes hash to {of_bytes(data)}",
                        hint="remove that file, and publish the artifact again",
                    )
                self.bucket.put(_blob(digest), data, digest, promises.integrity)

        in_parallel(put, [digest for digest in absent if sizes[digest] <= SINGLE])
        notes = self._side / "uploads"
        if large:
            notes.mkdir(exist_ok=True)
        for digest in large:
            upload = LargeUpload(
                self.bucket, _blob(digest), self.local.blob_path(digest), digest, promises.integrity
            )
            upload.run(notes / hex_of(digest), budget)
        self._there.update(sizes)

    def _absent(self, sizes: dict[Digest, int]) -> list[Digest]:
        """Those that the bucket does not have in their full size."""
        listed: dict[str, int] = {}
        if len(sizes) >= _MANY:

            def look(folder: str) -> None:
                listed.update(self.bucket.list(folder))

            in_parallel(look, sorted({_blob(digest).rpartition("/")[0] + "/" for digest in sizes}))
        else:

            def ask(digest: Digest) -> None:
                size = self.bucket.size(_blob(digest))
                if size is not None:
                    listed[_blob(digest)] = size

            in_parallel(ask, sizes)
        return [digest for digest, size in sizes.items() if listed.get(_blob(digest)) != size]

    def fetch(self, digests: Iterable[Digest]) -> None:
        """Bring blobs to this machine, in parallel and verified; those that are here cost a stat.

        What came before a failure stays. Raises StoreError where one is missing or damaged.
        """
        wanted = [digest for digest in dict.fromkeys(digests) if not self.local.has(digest)]
        with self.local.intake() as intake, ThreadPoolExecutor(_AHEAD) as pool:
            try:
                for digest, found in _ahead(pool, self._first, wanted):
                    if found is None:
                        raise StoreError(
                            f"{digest} is not in the store {self.location}",
                            hint="was it removed by hand, or never pushed?",
                        )
                    data, total = found
                    if total > len(data):
                        self._fetch_large(digest, data, total)
                    else:
                        intake.add_bytes(self._checked(digest, data))
                    self._there.add(digest)
            except BaseException:
                with suppress(StoreError):
                    intake.flush()
                raise

    def _first(self, digest: Digest) -> tuple[bytes, int] | None:
        return self.bucket.part(_blob(digest), 0, RANGE)

    def _checked(self, digest: Digest, data: bytes) -> bytes:
        """The bytes; asked for once more where they are not what the digest says."""
        if of_bytes(data) != digest:
            again = self._first(digest)
            if again is None or of_bytes(again[0]) != digest:
                raise self._damaged(digest, of_bytes(data))
            return again[0]
        return data

    def _fetch_large(self, digest: Digest, first: bytes, total: int) -> None:
        with self.local.writer() as writer:
            for piece in ranges(self.bucket, _blob(digest), first, total):
                writer.write(piece)
            if writer.digest() != digest:
                raise self._damaged(digest, writer.digest())
            writer.commit()

    def _damaged(self, digest: Digest, found: Digest) -> StoreError:
        return StoreError(
            f"the store {self.location} holds damaged bytes for {digest} (they hash to {found})",
            hint="restore the blob from another copy of the store, or publish the artifact again",
        )

    # --- upkeep -------------------------------------------------------------------------------------------

    def sweep(self, older_than: float = STALE) -> int:
        """Abort uploads that were begun more than ``older_than`` seconds ago and never ended; gives how many."""
        count = 0
        for upload in list(self.bucket.uploads("blobs/")):
            if time.time() - upload.begun.timestamp() >= older_than:
                self.bucket.abort(upload.key, upload.id)
                count += 1
        return count

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


class _Writer:
    """A BlobWriter into the machine's copy, which is then owed to the bucket."""

    def __init__(self, writer: Writer, owed: Owed) -> None:
        self._writer = writer
        self._owed = owed

    def write(self, piece: bytes) -> object:
        """Add bytes."""
        return self._writer.write(piece)

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible."""
        done = self._writer.commit()
        self._owed.add([done[0]])
        return done


class _Intake:
    """An Intake into the machine's copy that remembers what it took."""

    def __init__(self, intake: FolderIntake) -> None:
        self._intake = intake
        self.digests: dict[Digest, None] = {}

    def add(self, descriptor: int, size: int) -> tuple[Digest, int]:
        """Take an open file."""
        taken = self._intake.add(descriptor, size)
        self.digests[taken[0]] = None
        return taken


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


def _blob(digest: Digest) -> str:
    name = hex_of(parse_digest(digest))
    return f"blobs/sha256/{name[:2]}/{name}"
