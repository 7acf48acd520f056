"""Writers, readers and collectors of one store, each a real process, for the tests of garbage collection."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts import tombstone, tree
from orchestrator.artifacts.version import Manifest, Version, publish, read_verified, resolve, standing
from orchestrator.canonical import Json
from orchestrator.digest import Digest
from orchestrator.errors import MirageError, StoreError
from orchestrator.reference import RunId, record_key
from orchestrator.store.bucket.place import Place
from orchestrator.store.folder import FolderStore
from orchestrator.store.s3 import S3Store
from orchestrator.store.sessions import StoreBusy, hold, release, writing
from orchestrator.trust.chain import Link, parse
from orchestrator.trust.notary import Notary
from orchestrator.upkeep.collect import Busy, collect
from tests.s3_tools import Server, shared_bucket, store_at
from tests.store_tools import Heard

POOL = 40
KEEP = 3


@dataclass(frozen=True)
class Shared:
    """A store in a bucket, and a folder in which each process has a machine's cache of its own."""

    server: Server
    place: Place
    folder: Path


Root = Path | Shared


def open_store(root: Root) -> Any:
    if isinstance(root, Path):
        return FolderStore.open_at(root)
    cache = root.folder / f"machine-{os.getpid()}"
    shared_bucket(root.server, cache)
    return store_at(root.place, cache)


def notes(root: Root) -> Path:
    """Where the processes of a test write down what they saw."""
    return root.parent if isinstance(root, Path) else root.folder


def text(number: int) -> bytes:
    """One of the few contents that all writers use again and again: re-used garbage is the hard case."""
    return b"content-%d" % number * 50


def beside(action: Callable[..., Any], *words: Any) -> multiprocessing.process.BaseProcess:
    """Start a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=_guarded, args=(action, words))
    process.start()
    return process


def _guarded(action: Callable[..., Any], words: tuple[Any, ...]) -> None:
    code = 1
    try:
        action(*words)
        code = 0
    except MirageError as error:
        print(error, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def write(root: Root, number: int, seconds: float, sessions: bool = True) -> None:
    """Publish versions of a few files from the pool, slowly, and give up all but the newest three."""
    store = open_store(root)
    chance = random.Random(number)
    mine: list[Any] = []
    end = time.monotonic() + seconds
    done = broken = 0
    while time.monotonic() < end:
        chosen = chance.sample(range(POOL), chance.randint(1, 6))
        try:
            if sessions:
                with writing(store) as kept:
                    made = _publish(kept, number, done, chosen, chance)
            else:
                made = _publish(store, number, done, chosen, chance)
        except StoreBusy:
            continue
        done += 1
        mine.append(made)
        if len(mine) > KEEP:
            old = mine.pop(0)
            broken += not is_whole(store, old)
            tombstone.bury(store, old.ref, old.digest, "old")
    broken += sum(not is_whole(store, each) for each in mine)
    (notes(root) / f"writer-{number}").write_text(f"{done} {broken}")


def seal(root: Root, number: int, seconds: float) -> None:
    """Seal runs one after the other: what they need is held first, and named by a record and the log in the end.

    Every third is given up: what it held is garbage then.
    """
    store = open_store(root)
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        run = f"20261125-12{number:02}00-{done:06x}"
        with writing(store) as kept:
            needed = [kept.put(b"of %s: %d" % (run.encode(), each)) for each in range(3)]
            hold(kept, run, "prepared", needed)
        time.sleep(0.02)
        if done % 3 != 2:
            with writing(store) as kept:
                last = kept.put(b"result of " + run.encode())
                Notary(kept).seal(record_key(RunId(run)), _statement((*needed, last)))
        release(store, run)
        done += 1
    (notes(root) / f"sealer-{number}").write_text(str(done))


def _statement(needed: tuple[Digest, ...]) -> Callable[[Link], bytes]:
    definition: Json = {"resolvedDependencies": []}

    def made(link: Link) -> bytes:
        return canonical.encode(
            {
                "subject": [],
                "predicate": {"buildDefinition": definition},
                "needed": [*needed],
                "chain": link.to_json(),
            }
        )

    return made


def check_sealed(root: Root) -> int:
    """Everything that the records and the log name is there; gives how many records there are."""
    store = open_store(root)
    entries = [parse(store.read(key) or b"") for key in store.keys("log/")]
    for entry in entries:
        data = read_verified(store, entry.digest)
        assert store.read(entry.key) == data
        for digest in json.loads(data)["needed"]:
            read_verified(store, digest)
    return len(entries)


def is_whole(store: Any, made: Version) -> bool:
    """Whether everything that a version leads to is there, byte for byte; in a bucket, not in this machine's copy."""
    try:
        if isinstance(store, S3Store):
            entries = tree.parse(read_verified(store, made.manifest.tree))
            for digest in (made.digest, made.manifest.tree, *(entry.digest for entry in entries)):
                if digest is not None:
                    store.local.blob_path(digest).unlink(missing_ok=True)
        for entry in tree.parse(read_verified(store, made.manifest.tree)):
            if entry.digest is not None:
                read_verified(store, entry.digest)
        read_verified(store, made.digest)
    except StoreError:
        return False
    return True


def _publish(store: Any, number: int, done: int, chosen: list[int], chance: random.Random) -> Any:
    entries = []
    for each in chosen:
        digest = store.put(text(each))
        entries.append(tree.TreeEntry(f"f{each}", "f", False, len(text(each)), digest))
        time.sleep(chance.random() * 0.01)
    time.sleep(chance.random() * (0.02 if chance.random() < 0.9 else 0.4))
    kept = store.put(tree.encode(entries))
    size = sum(entry.size for entry in entries)
    manifest = Manifest(
        "dataset", f"writer{number}", "tree", None, kept, size, len(entries), f'{{"n":{done}}}'
    )
    return publish(store, manifest, f"exp{done:06}", None)


def collect_often(root: Root, seconds: float, pause: float = 0.02) -> None:
    """Collect again and again, everything that is not needed at this moment."""
    store = open_store(root)
    end = time.monotonic() + seconds
    rounds = removed = rescued = 0
    while time.monotonic() < end:
        try:
            done = collect(store, 0.0, Heard(), patience=30)
            rounds, removed, rescued = rounds + 1, removed + done.removed, rescued + done.rescued
        except Busy:
            pass
        time.sleep(pause)
    (notes(root) / "collector").write_text(f"{rounds} {removed} {rescued}")


def check_whole(root: Root) -> int:
    """Every version that stands has every byte; gives how many there are."""
    store = open_store(root)
    found = [resolve(store, str(ref)) for ref in standing(store)]
    torn = [str(each.ref) for each in found if not is_whole(store, each)]
    assert torn == []
    return len(found)
