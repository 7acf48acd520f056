"""A writer's part in garbage collection: a session, within which whatever it finds or writes stays in the store.

The collector (upkeep/collect.py) condemns, waits for the sessions that do not know what it condemned, and deletes
then. A writer that needs a condemned blob puts a `gc/keep/` object and looks whether deleting has begun: either the
collector sees the object, or the writer sees the phase (store-then-load on both sides). Decision: docs/adr/0012.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import MirageError, StoreError
from orchestrator.ports import Ahead, BlobWriter, Helper, Intake, Store
from orchestrator.ports_upkeep import DOUBT, Held
from orchestrator.store import turns
from orchestrator.store.turns import CONDEMNED, DELETING, State

_POLL = 0.02
_KEEPING = 8  # how many keeps are written at once


class StoreBusy(StoreError):
    """A collection took away what was about to be used: the same work, done again, writes it anew."""


@contextmanager
def writing(store: Store) -> Iterator[Store]:
    """The store for one piece of work: what is written or found through it stays until the work is named.

    From the first blob to the version, record or key that names it. Raises StoreBusy (its cause an OSError, as that
    of everything that may pass) where the work must be done again. Where the store is away, work that names nothing
    goes on; what would name something then raises the store's own error.
    """
    if not store.collected:
        yield store
        return
    session = Session(store)
    try:
        session.begin()
        yield session
    finally:
        session.end()


def hold(store: Store, run_id: str, name: str, digests: Iterable[Digest]) -> None:
    """Let blobs stay until a run has its record, beyond the session in which they were written."""
    if store.collected:
        store.replace(
            f"gc/hold/{run_id}/{name}.json", canonical.encode([*sorted(set(digests))]), durable=True
        )


def release(store: Store, run_id: str) -> None:
    """The run has its record, which names all that it needs."""
    try:
        for key in list(store.keys(f"gc/hold/{run_id}/")) if store.collected else []:
            store.discard(key)
    except StoreError as error:
        if not error.away:  # else a collector finds the record, and the hold needless
            raise


def doubt(store: Store) -> str:
    """The newest doubt about a blob, as a digest: while it is the same, nobody found one missing or damaged."""
    return of_bytes(store.read(DOUBT) or b"")


class Session:
    """A Store that takes part in garbage collection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = f"gc/session/{secrets.token_hex(12)}.json"
        self._seen = -1
        self._state = State(0, turns.IDLE)
        self._condemned: frozenset[str] = frozenset()
        self._kept: set[Digest] = set()
        self._early: set[Digest] = set()  # seen while the store was away
        self._begun = False
        self._away: StoreError | None = None  # why it could not begin
        self._said = False
        self._alive = 0.0
        self._over = threading.Event()

    def begin(self) -> None:
        """Say that somebody writes, then look what is condemned: in this order, as the collector looks in the other.

        A store that is away is told when something is to be named.
        """
        try:
            self._tell(turns.read_state(self._store).generation)
            state = self._settled()
            if state.generation != self._seen:
                self._tell(state.generation)
            self._state = state
            if state.phase == CONDEMNED:
                data = self._store.read(f"gc/condemned/{state.generation:016}.json")
                self._condemned = frozenset(json.loads(data)) if data is not None else frozenset()
        except StoreError as error:
            if not error.away:
                raise
            self._away = error
            return
        self._begun = True
        threading.Thread(target=self._renew, daemon=True).start()
        self._secure([*self._store.pending()])
        self._check_secure(self._early)

    def end(self) -> None:
        """Nothing is protected any more but by what names it."""
        self._over.set()
        if self._said:
            with suppress(StoreError):  # it is then taken for dead after its lease
                self._store.discard(self._key)

    def _tell(self, seen: int) -> None:
        began = turns.clock()
        self._said = True
        self._store.replace(self._key, canonical.encode({"seen": seen, **turns.holder()}))
        self._seen, self._alive = seen, began

    def _renew(self) -> None:
        while not self._over.wait(turns.LEASE / 4):
            with suppress(MirageError):
                self._tell(self._seen)
            if self._over.is_set():  # the renewal may have come after the end
                with suppress(StoreError):
                    self._store.discard(self._key)

    def _settled(self) -> State:
        """The state, once nothing is being deleted."""
        pause, asked = _POLL, 0.0
        while True:
            state = turns.read_state(self._store)
            if state.phase != DELETING:
                self._store.since(f"{state.generation} {state.phase}")
                return state
            if turns.clock() - asked > 1.0:
                turns.end_for_the_dead(self._store)
                asked = turns.clock()
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def _secure(self, digests: Iterable[Digest]) -> bool:
        """Whether blobs that were found or written stay: only where they are condemned is there anything to do."""
        if not self._begun:
            self._early.update(digests)
            return True
        doubtful = [each for each in digests if hex_of(each) in self._condemned and each not in self._kept]
        if not doubtful:
            return True
        names = [f"gc/keep/{self._state.generation:016}-{hex_of(each)}.json" for each in doubtful]
        if len(names) == 1:
            self._store.create(names[0], b"{}")
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(_KEEPING, len(names))) as pool:
                list(pool.map(lambda name: self._store.create(name, b"{}"), names))
        state = turns.read_state(self._store)
        if state == self._state:
            self._kept.update(doubtful)
            return True
        self._settled()
        # That generation is over, and the next one waits for this session: nothing of ours goes any more.
        self._condemned = frozenset()
        return all(self._store.has(each) for each in doubtful)

    def _check_secure(self, digests: Iterable[Digest]) -> None:
        if not self._secure(digests):
            raise StoreBusy(
                "what was stored was removed by a collection meanwhile", hint="do the same again"
            ) from BlockingIOError("collected")

    @property
    def location(self) -> str:
        """The store's."""
        return self._store.location

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there, and stays."""
        return self._store.has(digest) and self._secure((digest,))

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob."""
        return self._store.open(digest)

    def put(self, data: bytes) -> Digest:
        """Keep small bytes."""
        digest = self._store.put(data)
        if not self._secure((digest,)):
            self._store.put(data)
        return digest

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """Write a blob of any size."""
        with self._store.writer() as inner:
            yield _Writer(self, inner)

    @contextmanager
    def intake(self, *, link: bool = False) -> Iterator[Intake]:
        """Take many files."""
        taken = _Intake(self._condemned)
        with self._store.intake(link=link) as inner:
            taken.inner = inner
            yield taken if self._condemned else inner
        self._check_secure(taken.doubtful)

    def put_file(self, path: Path, *, digest: Digest, link: bool) -> None:
        """Keep a file."""
        self._store.put_file(path, digest=digest, link=link)
        if not self._secure((digest,)):
            self._store.put_file(path, digest=digest, link=link)

    def materialise(self, digest: Digest, target: Path, *, executable: bool) -> None:
        """Lay a blob out."""
        self._store.materialise(digest, target, executable=executable)

    def fetch(self, digests: Iterable[Digest], count: Callable[[int], object] = lambda size: None) -> None:
        """Bring blobs near."""
        self._store.fetch(digests, count)

    def create(self, key: str, data: bytes) -> bool:
        """Create an object: the moment for which the session was held, so it must still hold."""
        if not self._begun:
            self.begin()
        if not self._begun and self._away is not None:  # what claims no name may wait on this machine
            if not key.startswith("keys/"):
                raise self._away
            return self._store.create(key, data)
        if turns.clock() - self._alive > 0.8 * turns.LEASE:
            raise StoreBusy(
                f"the store {self.location} could not be told for {0.8 * turns.LEASE:.0f} s that this process lives",
                hint="do the same again",
            ) from TimeoutError("lease")
        return self._store.create(key, data)

    def read(self, key: str) -> bytes | None:
        """The object's bytes."""
        return self._store.read(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix."""
        return self._store.keys(prefix)

    @property
    def collected(self) -> bool:
        """That is why there is a session."""
        return True

    def insist(self) -> None:
        """As the store."""
        self._store.insist()

    def since(self, state: str) -> None:
        """As the store."""
        self._store.since(state)

    def pending(self) -> Iterable[Digest]:
        """What is on its way."""
        return self._store.pending()

    def flush(self) -> None:
        """Let what is on its way arrive."""
        self._store.flush()

    def blobs(self) -> Iterator[Held]:
        """Every blob."""
        return self._store.blobs()

    def hashed(self) -> Iterator[tuple[Held, bool]]:
        """Every blob, with whether it is whole."""
        return self._store.hashed()

    def begins(self, digest: Digest, size: int) -> bytes:
        """A blob's first bytes."""
        return self._store.begins(digest, size)

    def reads(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Many objects."""
        return self._store.reads(keys)

    def remove(self, digests: Iterable[Digest], before: Callable[[], None] = lambda: None) -> int:
        """Never through a session."""
        raise StoreError("a writer removes nothing")

    def ages(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Keys with their ages."""
        return self._store.ages(prefix)

    def replace(self, key: str, data: bytes, *, durable: bool = False) -> None:
        """Write an object of `gc/`."""
        self._store.replace(key, data, durable=durable)

    def discard(self, key: str) -> None:
        """Remove an object of `gc/`."""
        self._store.discard(key)

    def sweep(self, older_than: float, *, pretend: bool) -> tuple[int, int]:
        """What dead writers left."""
        return self._store.sweep(older_than, pretend=pretend)


class _Writer:
    def __init__(self, session: Session, inner: BlobWriter) -> None:
        self._session = session
        self._inner = inner

    def write(self, piece: bytes) -> object:
        return self._inner.write(piece)

    def commit(self) -> tuple[Digest, int]:
        digest, size = self._inner.commit()
        self._session._check_secure((digest,))
        return digest, size


class _Intake:
    """Remembers what of an intake is condemned; it is secured when all of it is visible."""

    inner: Intake

    def __init__(self, condemned: frozenset[str]) -> None:
        self._condemned = condemned
        self.doubtful: set[Digest] = set()

    def helper(self) -> Helper[Ahead] | None:
        return self.inner.helper()

    @property
    def sealed(self) -> Mapping[tuple[int, int], Digest]:
        return self.inner.sealed

    def add(self, descriptor: int, size: int, ahead: Ahead | None = None) -> tuple[Digest, int]:
        digest, taken = self.inner.add(descriptor, size, ahead)
        if hex_of(digest) in self._condemned:
            self.doubtful.add(digest)
        return digest, taken
