"""The sweep over a publish: at each of its system calls, one fault; what a test does with it is `test_store_crash.py`
(a part, quickly) and `stress/test_store_kill_sweep.py` (all of it).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifacts.version import versions
from orchestrator.store.folder import FolderStore
from tests.figures import Counts
from tests.store_tools import FINE, REFUSED, check_store, injected, save, staged, whole

KILLED = "T1 publish: SIGKILL at each system call"
REFUSED_BY_DISK = "T2 publish: an error at each system call"
# Every call by which a publish changes the disk. A death between two of them is a death at the next.
CHANGES = (
    "openat",
    "write",
    "fchmod",
    "utimensat",
    "fsync",
    "syncfs",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "ftruncate",
)
OTHERS = ("close", "lseek", "newfstatat", "fadvise64")  # not read: the process waits in one for its start


@dataclass
class Swept:
    """What a sweep did: how many faults were met, and how many publishes ended in which way."""

    faults: int = 0
    killed: int = 0
    refused: int = 0
    survived: int = 0


class Sweep:
    """Publishes of fresh content into one store, a fault in each, checked after each, harm told to ``counts``."""

    def __init__(self, top: Path, counts: Counts, *, files: int = 2) -> None:
        self._counts = counts
        self._top = top
        self._root = top / "store"
        self._files = files
        self._number = 0
        self.store = FolderStore.open_at(self._root)
        self.swept = Swept()
        self._left: list[str] = []

    def over(self, calls: tuple[str, ...], fault: str, *, for_good: bool = False) -> Swept:
        """At each call, at its first, second... time, until a publish passes untouched; ``for_good``: from then on."""
        for call in calls:
            when = 1
            while self._once(f"{call}:{fault}:when={when}{'+' * for_good}"):
                when += 1
        check_store(self._root)
        return self.swept

    def _once(self, what: str) -> bool:
        self._number += 1
        name = f"a{self._number}"
        source = self._content()
        end, met = injected(lambda: save(FolderStore(self._root), source, name), what, self._top / "trace")
        assert end in (FINE, REFUSED, -signal.SIGKILL), f"{what}: ended with {end}"
        counts = self._counts
        counts.trials += met
        visible = versions(self.store, "dataset", name)
        counts.unless(len(visible) < 2, "duplicates", f"{what}: {visible}")
        if visible:
            self._whole(f"dataset:{name}:{visible[0]}", what)
        if end == FINE:
            counts.unless(visible == ["v1"], "lost", f"{what}: acknowledged and lost")
        if end == -signal.SIGKILL:
            self.swept.killed += 1
        elif not what.startswith("unlink"):
            counts.unless(staged(self._root) == self._left, "orphans", f"{what}: something is under staging/")
        self.swept.refused += end == REFUSED
        self.swept.survived += end == FINE and met
        again = save(self.store, source, name)
        counts.unless(
            str(again.ref) == f"dataset:{name}:v1", "duplicates", f"{what}: the retry got {again.ref}"
        )
        self._whole(str(again.ref), what)
        self.swept.faults += met
        self._left = staged(self._root)
        return met

    def _whole(self, id: str, what: str) -> None:
        try:
            whole(self.store, id)
        except Exception as error:  # whatever a damaged store makes the code say
            self._counts.found("corrupt", f"{what}: {id}: {error!r}")

    def _content(self) -> Path:
        """A tree of small files, one that is hashed in a second thread, and one that ends in a hole."""
        source = self._top / f"source-{self._number}"
        (source / "inner").mkdir(parents=True)
        for number in range(self._files):
            (source / "inner" / f"small-{number}").write_bytes(os.urandom(100))
        (source / "large").write_bytes(os.urandom(300 << 10))
        with (source / "sparse").open("wb") as sink:
            sink.write(os.urandom(1 << 20))
            sink.truncate(2 << 20)
        return source
