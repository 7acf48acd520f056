"""Adding data to a store in a folder, against one pass of sha256 and copy over the same files.

Floor: for each file, in name order, read it in pieces of 1 MiB, hash and write each piece; no sync. The second
floor ends with one syncfs, which is the least that a durable copy can do. Ours: collect the tree, keep it, publish
a version; when it returns, everything would survive a power cut. Both write to fresh folders of one file system and
nothing is deleted between runs (ext4 makes the next creates slow after a delete); the runs alternate.

Adding an unchanged folder again, and one in which one file has changed, against their floor: os.walk with a stat of each
file.

It works in the system's temporary folder (TMPDIR says where) and needs about 12 GiB there.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.artifacts import by_hand, taking, tree
from orchestrator.artifacts.version import Manifest, publish
from orchestrator.store.disk import sync_many
from orchestrator.store.folder import FolderStore

_PIECE = 1 << 20
_ROUNDS = 3


def floor(source: Path, target: Path) -> None:
    """One pass of sha256 and copy."""
    target.mkdir()
    for name in sorted(os.listdir(source)):
        hasher = hashlib.sha256()
        with (
            open(source / name, "rb", buffering=0) as given,
            open(target / name, "xb", buffering=0) as copy,
        ):
            while piece := given.read(_PIECE):
                hasher.update(piece)
                copy.write(piece)


def durable_floor(source: Path, target: Path) -> None:
    """The same, and one sync of the file system."""
    floor(source, target)
    sync_many([os.fspath(target / name) for name in os.listdir(target)], target)


def ours(source: Path, target: Path) -> None:
    """Publish the folder as an artifact in a new store (making the store is not counted)."""
    store = FolderStore(target)
    descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = taking.collect(store, descriptor)
    finally:
        os.close(descriptor)
    size = sum(entry.size for entry in entries)
    kept = store.put(tree.encode(entries))
    publish(store, Manifest("dataset", "bench", "tree", None, kept, size, len(entries), "{}"), None, None)


def _seconds(action: Callable[[Path, Path], None], source: Path, target: Path) -> float:
    if action is ours:
        FolderStore.open_at(target)
    os.sync()
    began = time.perf_counter()
    action(source, target)
    return time.perf_counter() - began


def _case(title: str, top: Path, source: Path, rounds: int) -> None:
    taken: dict[str, list[float]] = {}
    for number in range(rounds):
        for action in (floor, durable_floor, ours):
            target = top / f"{source.name}-{action.__name__}-{number}"
            taken.setdefault(action.__name__, []).append(_seconds(action, source, target))
    again = top / f"{source.name}-ours-0"
    unchanged = statistics.median(_seconds_again(source, again) for _ in range(rounds))
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(title)
    for name, values in taken.items():
        print(f"  {name:14} {median[name]:7.3f} s   (of {', '.join(f'{value:.3f}' for value in values)})")
    print(f"  ours / floor          {median['ours'] / median['floor']:.2f}   (aim 1.20)")
    print(f"  ours / durable floor  {median['ours'] / median['durable_floor']:.2f}")
    print(f"  the same content again {unchanged:.3f} s, {unchanged / median['floor']:.2f} of the floor")


def _seconds_again(source: Path, store: Path) -> float:
    began = time.perf_counter()
    ours(source, store)
    return time.perf_counter() - began


def _walk(source: Path) -> None:
    for top, _, names in os.walk(source):
        for name in names:
            os.stat(os.path.join(top, name))


def _unchanged(top: Path, source: Path) -> None:
    """As `mirage artifact add` does it, with what this machine remembers of the folder."""
    store = FolderStore.open_at(top / "remembered")

    def walk() -> None:
        _walk(source)

    def add() -> None:
        by_hand.add(store, source, kind="dataset", name="bench", version=None, cache=top / "cache")

    add()
    taken: dict[str, list[float]] = {"walk": [], "again": []}
    for _ in range(3 * _ROUNDS):
        for name, action in (("walk", walk), ("again", add)):
            began = time.perf_counter()
            action()
            taken[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(
        f"  unchanged, by stat    {median['again']:.3f} s, a walk with stat {median['walk']:.3f} s: ", end=""
    )
    print(f"{median['again'] / median['walk']:.2f}   (aim 1.30)")
    changed = []
    for _ in range(_ROUNDS):
        (source / "05000").write_bytes(os.urandom(10 << 10))
        began = time.perf_counter()
        add()
        changed.append(time.perf_counter() - began)
    one = statistics.median(changed)
    print(f"  one of them changed   {one:.3f} s: {one / median['walk']:.2f} of a walk with stat   (aim 1.30)")


def main() -> None:
    """Print both cases."""
    top = Path(tempfile.mkdtemp(prefix="mirage-bench-"))
    try:
        many = top / "many"
        many.mkdir()
        for number in range(10_000):
            (many / f"{number:05}").write_bytes(os.urandom(10 << 10))
        _case("10,000 files of 10 KiB", top, many, _ROUNDS)
        _unchanged(top, many)
        one = top / "one"
        one.mkdir()
        with open(one / "file", "wb") as sink:
            for _ in range(64):
                sink.write(os.urandom(16 << 20))
        _case("1 file of 1 GiB", top, one, _ROUNDS)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
