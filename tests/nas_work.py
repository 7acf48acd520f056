"""What the tests of a NAS let its machines do: `python3 -m tests.nas_work WHAT WORDS...` in a guest of tests/nas_guests.py.

Each part prints what it found as one line of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from orchestrator.artifacts.version import VersionExists, publish, standing, versions
from orchestrator.digest import of_bytes
from orchestrator.errors import StoreError
from orchestrator.store.folder import FolderStore
from orchestrator.store.sessions import StoreBusy, writing
from orchestrator.upkeep.collect import Busy, collect, look
from tests import gc_tools
from tests.figures import Counts
from tests.race_tools import RACES, judge
from tests.store_tools import Heard, check_store, content, manifest, staged, whole

GATE = 7008
OVER = Path("/run/over")  # whoever goes on until it is stopped, stops when this is there


def opened(root: str) -> object:
    """Open a store, or be refused."""
    try:
        FolderStore.open_at(Path(root))
    except StoreError as error:
        return {"code": error.exit_code, "message": str(error), "hint": error.hint}
    return {"code": 0}


def gate(count: str) -> object:
    """Let that many go on at once, whenever all of them have come; until one of them leaves."""
    with socket.create_server(("0.0.0.0", GATE)) as door:
        lines = [door.accept()[0] for _ in range(int(count))]
    for line in lines:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rounds = 0
    with suppress(OSError):
        while all(line.recv(1) for line in lines):
            for line in lines:
                line.sendall(b".")
            rounds += 1
    return {"rounds": rounds}


class Gate:
    """One of those who go on at once."""

    def __init__(self, address: str) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self._line = socket.create_connection((address, GATE), 240)
                return
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.1)

    def wait(self) -> None:
        """Until all others have come here too."""
        self._line.sendall(b".")
        assert self._line.recv(1), "another one left"


def race(root: str, number: str, rounds: str, address: str) -> object:
    """In each round publish content of one's own under the name that all want, and under the next `vN`."""
    won, store, door = [], FolderStore.open_at(Path(root)), Gate(address)
    for turn in range(int(rounds)):
        mine = manifest(store, text=f"{number} in {turn}")
        door.wait()
        try:
            publish(store, mine, f"exp{turn:03}", f"run-{number}")
            won.append(f"exp{turn:03}")
        except VersionExists:
            pass
        counted = manifest(store, "counted", f"{number} {turn}")
        won.append(publish(store, counted, None, None).ref.version)
    return won


def read(root: str) -> object:
    """Read the newest versions of what is raced for, again and again; what was torn."""
    torn, seen, store = [], 0, FolderStore.open_at(Path(root))
    while not OVER.exists():
        for name in ("data", "counted"):
            for version in versions(store, "dataset", name)[-2:]:
                try:
                    whole(store, f"dataset:{name}:{version}")
                    seen += 1
                except Exception as error:  # whatever a torn version makes the code say
                    torn.append(f"{name}:{version}: {error!r}")
        time.sleep(0.1)  # a guest has one processor
    return {"torn": torn, "seen": seen}


def judged(root: str, publishers: str, rounds: str, file: str) -> object:
    """The store after a race: what harm is found."""
    counts = Counts(RACES)
    judge(Path(root), counts, json.loads(Path(file).read_text()), int(publishers), int(rounds))
    return asdict(counts)


def gc_write(root: str, number: str, seconds: str) -> object:
    """Publish what others publish too, and give it up again."""
    gc_tools.write(Path(root), int(number), float(seconds))
    done, broken = (gc_tools.notes(Path(root)) / f"writer-{number}").read_text().split()
    return {"done": int(done), "broken": int(broken)}


def gc_collect(root: str, seconds: str) -> object:
    """Collect again and again."""
    store, end = FolderStore.open_at(Path(root)), time.monotonic() + float(seconds)
    found = {"rounds": 0, "removed": 0, "rescued": 0, "busy": 0}
    while time.monotonic() < end:
        try:
            done = collect(store, 0.0, Heard(), patience=60.0)
        except Busy:
            found["busy"] += 1
            time.sleep(0.2)
            continue
        found["rounds"] += 1
        found["removed"] += done.removed
        found["rescued"] += done.rescued
    return found


def gc_ends(root: str) -> object:
    """What is left when all is over, and whether what stands is whole."""
    store = FolderStore.open_at(Path(root))
    collect(store, 0.0, Heard())
    return {"garbage": len(look(store, 0.0).garbage), "whole": gc_tools.check_whole(Path(root))}


def publish_on(root: str, number: str, told: str) -> object:
    """Publish until it is stopped; each version is told to a file on another mount when it is done."""
    store, done = FolderStore.open_at(Path(root)), 0
    with open(told, "w") as sink:
        while not OVER.exists():
            while True:
                try:
                    with writing(store) as kept:
                        made = publish(kept, manifest(kept, "kept", f"{number} {done} " * 3000), None, None)
                    break
                except StoreBusy:
                    continue
            done += 1
            print(made.ref.version, file=sink, flush=True)
            os.fsync(sink.fileno())
    return {"done": done}


def create_on(root: str, number: str) -> object:
    """Create objects and blobs one after the other; how often a name of one's own was said to be another's."""
    store, done, wrong = FolderStore.open_at(Path(root)), 0, []
    while not OVER.exists():
        name, data = f"keys/env/{number}/{done}.json", f"{number} {done}".encode()
        if not store.create(name, data):
            wrong.append(f"{name} is said to be another's")
        store.replace(f"gc/own-{number}.json", data)
        if store.read(f"gc/own-{number}.json") != data:
            wrong.append(f"gc/own-{number}.json is not what was written")
        if store.put(data * 100) != of_bytes(data * 100):
            wrong.append(f"blob {done}")
        done += 1
    return {"done": done, "wrong": wrong}


def remembers(root: str, begin: str, end: str, name: str) -> object:
    """Look for what another machine is about to remove and to make, wait for it to say so, and look again."""
    store = FolderStore.open_at(Path(root))
    digest, key = of_bytes(b"going"), f"refs/dataset/{name}/v1.json"
    coming = of_bytes(b"coming" + name.encode())

    def seen() -> list[object]:
        return [store.has(digest), store.read(key) is not None, list(store.keys(f"refs/dataset/{name}/"))]

    before = [*seen(), store.has(coming)]
    Path(begin).touch()
    while not os.path.exists(end):
        os.listdir(os.path.dirname(end))
        time.sleep(0.02)
    return [before, [content(store, coming).decode(), *seen()]]


def changes(root: str, begin: str, end: str, name: str) -> object:
    """What that other machine does."""
    store = FolderStore.open_at(Path(root))
    while not os.path.exists(begin):
        os.listdir(os.path.dirname(begin))
        time.sleep(0.02)
    store.remove([of_bytes(b"going")])
    store.put(b"coming" + name.encode())
    made = store.create(f"refs/dataset/{name}/v1.json", b"{}")
    Path(end).touch()
    return made


def put(root: str, text: str) -> object:
    """Keep a blob."""
    return FolderStore.open_at(Path(root)).put(text.encode())


def adds(folder: str, begin: str, rounds: str, pace: str) -> object:
    """In each round, two names in one folder within one tick of the clock, and then nothing more."""
    for turn in range(int(rounds)):
        Path(folder, str(turn)).mkdir()
    Path(folder, "ready").touch()
    for turn in range(int(rounds)):
        _at(float(begin) + turn * float(pace))
        Path(folder, str(turn), "x.json").touch()
        end = time.perf_counter() + 0.0012
        while time.perf_counter() < end:
            pass
        Path(folder, str(turn), "y.json").touch()
    return rounds


def lists(root: str, prefix: str, begin: str, rounds: str, pace: str) -> object:
    """How many of those folders are seen wrong for good: by listing them, and by the store."""
    store, plain, ours = FolderStore.open_at(Path(root)), 0, 0
    for turn in range(int(rounds)):
        folder = f"{root}/{prefix}/{turn}"
        _at(float(begin) + turn * float(pace) - 0.08)  # the clocks are not quite one
        end = time.time() + 0.16
        while time.time() < end:
            os.listdir(folder)
    time.sleep(1)
    for turn in range(int(rounds)):
        plain += len(os.listdir(f"{root}/{prefix}/{turn}")) != 2
        ours += len(list(store.keys(f"{prefix}/{turn}/"))) != 2
    return {"plain": plain, "ours": ours}


def _at(moment: float) -> None:
    while (left := moment - time.time()) > 0:
        time.sleep(left if left > 0.005 else 0)


def fill(root: str, number: str) -> object:
    """Publish larger and larger artifacts until it is refused; what was published, and what was said."""
    store, made = FolderStore.open_at(Path(root)), []
    try:
        for turn in range(10_000):
            made.append(
                publish(
                    store, manifest(store, f"fill{number}", os.urandom(500_000).hex()), None, None
                ).ref.version
            )
            many = Path(f"/tmp/many-{number}")
            many.mkdir(exist_ok=True)
            with store.intake() as intake:
                for each in range(18):  # more than are synced one by one
                    (many / str(each)).write_bytes(os.urandom(8000))
                    with (many / str(each)).open("rb") as source:
                        intake.add(source.fileno(), 8000)
            del turn
    except StoreError as error:
        return {"made": made, "code": error.exit_code, "message": str(error), "hint": error.hint}
    return {"made": made, "code": 0, "message": "", "hint": ""}


def check(root: str, *told: str) -> object:
    """Whether all that is there is whole, and all that was said to be published is among it."""
    blobs = check_store(Path(root))
    store = FolderStore.open_at(Path(root))
    here = {ref.version for ref in standing(store) if ref.name == "kept"}
    lost = [line for file in told for line in Path(file).read_text().split("\n")[:-1] if line not in here]
    return {
        "blobs": blobs,
        "versions": len(list(standing(store))),
        "lost": lost,
        "staged": staged(Path(root)),
    }


PARTS: dict[str, Callable[..., object]] = {
    each.__name__: each
    for each in (
        *(opened, gate, race, read, judged, gc_write, gc_collect, gc_ends, publish_on, create_on, remembers),
        *(changes, put, adds, lists, fill, check),
    )
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])), flush=True)
