"""The sweep over a seal: at each of its system calls, one fault; then what recovery does, and the log is whole.

A part of it runs in `test_trust.py`, all of it in `stress/test_seal_sweep.py`.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from orchestrator.digest import Digest
from orchestrator.reference import record_key
from orchestrator.store.disk import told
from orchestrator.store.folder import FolderStore
from orchestrator.trust.chain import Link
from orchestrator.trust.notary import Notary
from orchestrator.trust.trusted import Trust
from orchestrator.trust.walk import walk
from tests.figures import Counts
from tests.record_tools import run_id
from tests.store_sweep import Swept
from tests.store_tools import FINE, REFUSED, injected
from tests.trust_tools import statement

KILLED = "T1 record: SIGKILL at each system call"
REFUSED_BY_DISK = "T2 record: an error at each system call"


class SealSweep:
    """Records sealed one after another into one store, a fault in each, each recovered, harm told to ``counts``."""

    def __init__(self, top: Path, counts: Counts) -> None:
        self._counts = counts
        self._top = top
        self._root = top / "store"
        self._number = 0
        self.store = FolderStore.open_at(self._root)
        self.swept = Swept()

    def over(self, calls: tuple[str, ...], fault: str) -> Swept:
        """At each call, at its first, second... time, until a seal passes untouched."""
        for call in calls:
            when = 1
            while self._once(f"{call}:{fault}:when={when}"):
                when += 1
        return self.swept

    def _once(self, what: str) -> bool:
        run = run_id(self._number)
        key, journal = record_key(run), self._top / f"journal-{self._number}"
        self._number += 1

        def seal() -> None:
            def before(link: Link, digest: Digest) -> None:
                with told("write the journal"), journal.open("a") as lines:
                    lines.write(json.dumps([link.seq, digest]) + "\n")
                    lines.flush()
                    os.fsync(lines.fileno())

            store = FolderStore(self._root)
            Notary(store, memory=self._top / "memory").seal(key, lambda link: statement(run, link), before)

        end, met = injected(seal, what, self._top / "trace")
        assert end in (FINE, REFUSED, -signal.SIGKILL), f"{what}: ended with {end}"
        self.swept.killed += end == -signal.SIGKILL
        self.swept.refused += end == REFUSED
        self.swept.survived += end == FINE and met
        self.swept.faults += met
        self._counts.trials += met
        if end == FINE:
            self._counts.unless(self.store.read(key) is not None, "lost", f"{what}: acknowledged and lost")
        self._recover(run, key, journal, what)
        return met

    def _recover(self, run: str, key: str, journal: Path, what: str) -> None:
        """As recover.py: what is there stays, what was sealed is completed, and else it is sealed now."""
        lines = journal.read_text().splitlines() if journal.exists() else []
        tried = [
            (int(seq), Digest(digest))
            for seq, digest in (json.loads(line) for line in lines if line.endswith("]"))
        ]
        notary = Notary(self.store)
        if self.store.read(key) is None and notary.finish(key, tried) is None:
            notary.seal(key, lambda link: statement(run, link))
        found = walk(self.store, Trust())
        self._counts.unless(found.faults == [], "corrupt", f"{what}: {found.faults}")
        self._counts.unless(
            found.size >= self._number <= found.records, "lost", f"{what}: {found.size} entries"
        )
        self._counts.unless(
            found.size <= self._number >= found.records, "duplicates", f"{what}: {found.size} entries"
        )
