"""SIGKILL and errors at every system call of a seal, and writers that die among others: never none, never two."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from orchestrator.reference import record_key
from orchestrator.store.folder import FolderStore
from orchestrator.trust.notary import Notary
from orchestrator.trust.trusted import Trust
from orchestrator.trust.walk import walk
from tests.figures import Counted, how_many
from tests.record_tools import run_id
from tests.seal_sweep import KILLED, REFUSED_BY_DISK, SealSweep
from tests.store_sweep import CHANGES, OTHERS
from tests.trust_tools import statement

pytestmark = pytest.mark.stress


@pytest.mark.parametrize("round", range(how_many("kills", 5)))
def test_a_seal_killed_at_every_system_call(tmp_path: Path, counted: Counted, round: int) -> None:
    swept = SealSweep(tmp_path, counted(KILLED)).over((*CHANGES, *OTHERS), "signal=KILL")
    assert swept.killed == swept.faults > 40


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "ESTALE", "EACCES"])
def test_a_seal_that_meets_an_error_at_every_change(tmp_path: Path, counted: Counted, error: str) -> None:
    calls = ("openat", "write", "fchmod", "fsync", "rename", "link", "mkdir")
    swept = SealSweep(tmp_path, counted(REFUSED_BY_DISK)).over(calls, f"error={error}")
    assert swept.refused + swept.survived == swept.faults > 15


def append(folder: str, process: int) -> None:
    store, number = FolderStore.open_at(Path(folder)), 0
    while True:
        run = run_id(process * 10_000 + number)
        number += 1
        Notary(store).seal(record_key(run), lambda link, run=run: statement(run, link))  # type: ignore[misc]


def test_writers_that_are_killed_leave_a_log_without_a_gap(tmp_path: Path) -> None:
    """Sixteen writers; now and then one is killed, and another takes its place."""
    store = FolderStore.open_at(tmp_path / "store")
    context, dice = multiprocessing.get_context("fork"), random.Random(1)
    living: list[multiprocessing.process.BaseProcess] = []
    deadline, begun = time.monotonic() + 30, 0
    while time.monotonic() < deadline:
        while len(living) < 16:
            made = context.Process(target=append, args=(store.location, begun), daemon=True)
            begun += 1
            made.start()
            living.append(made)
        time.sleep(0.05)
        dead = living.pop(dice.randrange(len(living)))
        dead.kill()
        dead.join()
    for each in living:
        each.kill()
        each.join()
    Notary(store).seal(record_key(run_id(9_999_999)), lambda link: statement(run_id(9_999_999), link))
    found = walk(store, Trust())
    assert found.faults == [] and found.size == found.records > 500
    assert begun > 100
