"""Whose turn it is in a store: the collector's state and lock, and whether their holder still lives.

`gc/state.json` says the generation and its phase; `gc/lock/<generation>.json` is created once by the collector that
carries it out, so the highest number is the fence: a collector that sees a higher one has been replaced and stops.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.errors import StoreError
from orchestrator.ports import Store

IDLE, CONDEMNED, DELETING = "idle", "condemned", "deleting"
STATE = "gc/state.json"
# Seconds without a sign of life after which a holder on another machine counts as dead; it renews four times in that.
LEASE = 900.0
# Judged by the server's clock against the holder's own, so with room for both.
DEAD = 1.5 * LEASE


@dataclass(frozen=True)
class State:
    """The generation that runs or ran last, and its phase."""

    generation: int
    phase: str


def read_state(store: Store) -> State:
    """What is being collected now. Raises StoreError where the object is damaged."""
    data = store.read(STATE)
    if data is None:
        return State(0, IDLE)
    try:
        item = json.loads(data)
        state = State(int(item["generation"]), str(item["phase"]))
        if state.phase not in (IDLE, CONDEMNED, DELETING):
            raise ValueError(state.phase)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{STATE} in the store {store.location} is damaged: {error!r}",
            hint="when no `mirage gc` runs anywhere: remove that object",
        ) from error
    return state


def write_state(store: Store, state: State) -> None:
    """Say what is being collected; durable."""
    data: Json = {"generation": state.generation, "phase": state.phase}
    store.replace(STATE, canonical.encode(data), durable=True)


def holder() -> dict[str, Json]:
    """Who this process is, so that another one on this machine can tell whether it still lives."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(item: object) -> bool:
    """Whether a holder is known to be dead: only a process of the same machine can tell that at once."""
    if not isinstance(item, dict) or item.get("machine") != _machine() or not _machine():
        return False
    pid = item.get("pid")
    return not isinstance(pid, int) or _started(pid) != item.get("started")


def clock() -> float:
    """Seconds that also count while the machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine() -> str:
    """This boot and this process space; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in clock ticks (proc(5), stat, field 22); empty where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _lock_key(number: int) -> str:
    return f"gc/lock/{number:016}.json"


def newest_lock(store: Store) -> tuple[int, float]:
    """The highest generation that anybody took, and the seconds since its last sign of life."""
    found = [(int(key.rpartition("/")[2][:16]), age) for key, age in store.ages("gc/lock/")]
    return max(found, default=(0, 0.0))


def take_lock(store: Store) -> int | None:
    """Become the collector: gives the new generation, or None where another one lives."""
    number, age = newest_lock(store)
    if number:
        try:
            item = json.loads(store.read(_lock_key(number)) or b"{}")
        except ValueError:
            item = {}
        if not (isinstance(item, dict) and item.get("released")) and not is_dead(item) and age < DEAD:
            return None
    mine = max(number, read_state(store).generation) + 1
    if not store.create(_lock_key(mine), canonical.encode(holder())):
        return None
    for key in list(store.keys("gc/lock/")):
        if key < _lock_key(mine):
            store.discard(key)
    return mine


def renew_lock(store: Store, number: int) -> None:
    """A sign of life."""
    store.replace(_lock_key(number), canonical.encode(holder()))


def release_lock(store: Store, number: int) -> None:
    """The turn is over; the object stays, as the fence."""
    store.replace(_lock_key(number), canonical.encode({"released": True}))


def end_for_the_dead(store: Store) -> None:
    """Where a collector died while it deleted: end its generation, so that writers need not wait for ever."""
    state = read_state(store)
    if state.phase == IDLE:
        return
    number = take_lock(store)
    if number is not None:
        write_state(store, State(number, IDLE))
        release_lock(store, number)


def clear(store: Store, generation: int) -> None:
    """Remove what the generations before this one, and this one, left beside the state."""
    for prefix in ("gc/keep/", "gc/condemned/"):
        for key in list(store.keys(prefix)):
            with suppress(ValueError):
                if int(key.rpartition("/")[2][:16]) <= generation:
                    store.discard(key)
