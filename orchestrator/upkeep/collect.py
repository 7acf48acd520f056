"""Garbage collection of a store: condemn, drain, delete (docs/adr/0012), while others publish.

1. *Condemn*: write down what nothing needs and is old enough; say so. 2. *Drain*: wait until every session that
cannot know of it has ended. 3. *Delete*: say so, look once more what is needed and what writers keep, remove the
rest. The writer's side is store/sessions.py. A collector that dies is replaced by the next one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from orchestrator import canonical
from orchestrator.digest import hex_of
from orchestrator.errors import MirageError, StoreError
from orchestrator.image.oci import timestamp
from orchestrator.ports import Reporter, Store
from orchestrator.ports_upkeep import Held
from orchestrator.store import turns
from orchestrator.store.turns import CONDEMNED, DELETING, IDLE, State
from orchestrator.upkeep.reach import Reach, raw

# Writers of earlier versions hold no session; what is younger than this is left for them (store.md 4.6).
GRACE = 24 * 3600.0
# A hold of a run that never came to its record.
FORGOTTEN = 90 * 24 * 3600.0
# A pack of which less than this can go is left as it is.
PACKED_SHARE = 0.25
_POLL = 0.02


@dataclass
class Found:
    """What a store has: needed, too young to say, packed with what is mostly needed, and what can go."""

    live: int = 0
    live_bytes: int = 0
    young: int = 0
    young_bytes: int = 0
    packed: int = 0
    packed_bytes: int = 0
    garbage: list[Held] = field(default_factory=list)
    unfinished: tuple[int, int] = (0, 0)

    @property
    def bytes(self) -> int:
        """What collecting frees, in bytes."""
        return sum(held.size for held in self.garbage) + self.unfinished[1]


@dataclass(frozen=True)
class Done:
    """What a collection removed; ``rescued`` were condemned, and needed again before they went."""

    removed: int
    bytes: int
    rescued: int
    unfinished: tuple[int, int]


def look(store: Store, older_than: float) -> Found:
    """What could go now; changes nothing. Raises StoreError where what is needed cannot be told."""
    return _look(store, older_than)[0]


def _look(store: Store, older_than: float) -> tuple[Found, Reach]:
    store.insist()  # what this machine remembers of a store that is away is less than what others need
    held = list(store.blobs())
    reach = Reach(store, (each.digest for each in held))
    reach.update()
    found = Found(unfinished=store.sweep(max(older_than, GRACE), pretend=True))
    packs: dict[str, tuple[int, int]] = {}  # bytes in all, and of them what can go
    for each in held:
        needed, young = raw(each.digest) in reach.live, each.age < older_than
        if needed:
            found.live += 1
            found.live_bytes += each.size
        elif young:
            found.young += 1
            found.young_bytes += each.size
        else:
            found.garbage.append(each)
        if each.pack:
            whole, going = packs.get(each.pack, (0, 0))
            packs[each.pack] = whole + each.size, going + (0 if needed or young else each.size)
    _leave_packed(found, {pack for pack, (whole, going) in packs.items() if going < whole * PACKED_SHARE})
    return found, reach


def _leave_packed(found: Found, full: set[str]) -> None:
    """What lies in a pack that is mostly needed stays: to take it out, the rest would be written again."""
    left = [each for each in found.garbage if each.pack in full]
    found.packed, found.packed_bytes = len(left), sum(each.size for each in left)
    if left:
        found.garbage = [each for each in found.garbage if each.pack not in full]


class Busy(StoreError):
    """Another collector is at work, or a writer did not come to an end in time."""


def collect(store: Store, older_than: float, reporter: Reporter, *, patience: float = 600.0) -> Done:
    """Remove what nothing needs and is older than that many seconds.

    Raises Busy where another collector lives, or a session does not end within ``patience`` seconds; nothing is
    removed then. StoreError where what is needed cannot be told.
    """
    store.insist()
    generation = turns.take_lock(store)
    if generation is None:
        raise Busy(
            f"another `mirage gc` works on {store.location}", hint="wait for it, then run it again if need be"
        )
    with _signs_of_life(store, generation) as alive:
        return _Collection(store, generation, reporter, alive).run(older_than, patience)


@contextmanager
def _signs_of_life(store: Store, generation: int) -> Iterator[Callable[[], float]]:
    """Renew the lock; gives a function that tells the seconds since it was renewed last, sleep included."""
    over, last = threading.Event(), turns.clock()

    def renew() -> None:
        nonlocal last
        while not over.wait(turns.LEASE / 4):
            began = turns.clock()
            with suppress(MirageError):
                turns.renew_lock(store, generation)
                last = began

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lambda: turns.clock() - last
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):
            turns.release_lock(store, generation)


class _Collection:
    def __init__(self, store: Store, generation: int, reporter: Reporter, alive: Callable[[], float]) -> None:
        self._store = store
        self._alive = alive
        self._generation = generation
        self._reporter = reporter
        self._began = time.monotonic()

    def run(self, older_than: float, patience: float) -> Done:
        # A collector that died while it deleted left its state: it is over, and nobody waits for it any longer. Not
        # this generation yet: a session that has seen it must have seen what it condemned.
        self._enter(IDLE, self._generation - 1)
        turns.clear(self._store, self._generation - 1)
        self._forget_holds()
        found, reach = _look(self._store, older_than)
        unfinished = self._store.sweep(max(older_than, GRACE), pretend=False)
        if not found.garbage:
            return Done(0, 0, 0, unfinished)
        names = [hex_of(held.digest) for held in found.garbage]
        self._store.create(
            f"gc/condemned/{self._generation:016}.json", json.dumps(names, separators=(",", ":")).encode()
        )
        self._enter(CONDEMNED)
        try:
            self._drain(patience)
        except StoreError:
            self._enter(IDLE)
            turns.clear(self._store, self._generation)
            raise
        self._enter(DELETING)
        try:
            removed = self._delete(found.garbage, reach)
        finally:
            self._enter(IDLE)
        turns.clear(self._store, self._generation)
        done = Done(len(removed), sum(each.size for each in removed), len(names) - len(removed), unfinished)
        self._log(done)
        return done

    def _enter(self, phase: str, generation: int | None = None) -> None:
        self._check_turn()
        turns.write_state(self._store, State(self._generation if generation is None else generation, phase))

    def _check_turn(self) -> None:
        """Another collector may have taken this one for dead."""
        # and a while before it does, so that no removal is under way then
        if self._alive() > 0.8 * turns.LEASE or turns.newest_lock(self._store)[0] != self._generation:
            raise Busy(
                f"another `mirage gc` took over the collection of {self._store.location}",
                hint="this process seemed dead to it; run it again if need be",
            )

    def _drain(self, patience: float) -> None:
        """Wait for the sessions that began before the condemned were named."""
        deadline = time.monotonic() + patience
        told, pause = False, _POLL
        while True:
            waiting = [key for key, age in self._store.ages("gc/session/") if self._must_wait(key, age)]
            if not waiting:
                return
            if not told and time.monotonic() - self._began > 2:
                told = True
                self._reporter.note(f"waiting for {len(waiting)} writer(s) that were at work before")
            if time.monotonic() > deadline:
                raise Busy(
                    f"{len(waiting)} writer(s) of {self._store.location} did not come to an end in {patience:.0f} s",
                    hint="nothing was removed; run it again when long uploads and builds are over",
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def _must_wait(self, key: str, age: float) -> bool:
        data = self._store.read(key)
        if data is None:
            return False
        try:
            item = json.loads(data)
            seen = int(item["seen"])
        except (ValueError, KeyError, TypeError):
            item, seen = None, -1
        if age > turns.DEAD or turns.is_dead(item):
            self._store.discard(key)
            return False
        return seen < self._generation

    def _delete(self, condemned: list[Held], reach: Reach) -> list[Held]:
        kept = {key.rpartition("-")[2].removesuffix(".json") for key in self._store.keys("gc/keep/")}
        reach.update()
        going = [
            held
            for held in condemned
            if raw(held.digest) not in reach.live and hex_of(held.digest) not in kept
        ]
        self._store.remove((held.digest for held in going), self._check_turn)
        return going

    def _forget_holds(self) -> None:
        """Holds of runs that have their record, or whose machine never came back."""
        for key, age in list(self._store.ages("gc/hold/")):
            run_id = key.split("/")[2]
            record = f"runs/{run_id[:4]}-{run_id[4:6]}/{run_id}/record.json"
            if age > FORGOTTEN or self._store.read(record) is not None:
                self._store.discard(key)

    def _log(self, done: Done) -> None:
        self._store.create(
            f"gc/log/{self._generation:016}.json",
            canonical.encode(
                {
                    "at": timestamp(int(time.time())),
                    "removed": done.removed,
                    "bytes": done.bytes,
                    "rescued": done.rescued,
                }
            ),
        )
