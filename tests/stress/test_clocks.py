"""Clocks that are wrong by a year, and clocks that jump during a run (libfaketime slows a run by half a minute)."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store.folder import FolderStore
from tests.figures import Counted
from tests.run_tools import Project, wait_for
from tests.test_stops import project

__all__ = ["project"]
pytestmark = [pytest.mark.stress, pytest.mark.timeout(300)]
CLOCKS = "clocks: a run at another time, and a jump in it"


def faked(**more: str) -> dict[str, str]:
    """The variables of libfaketime for a process; its monotonic clock stays true."""
    preload = str(next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")))
    return {"LD_PRELOAD": preload, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", **more}


@pytest.mark.parametrize("shift", ["-400d", "+400d"])
def test_a_run_at_another_time(project: Project, counted: Counted, shift: str) -> None:
    counts = counted(CLOCKS)
    before = set(project.run_ids())
    # another process is in the middle of a publish meanwhile, by a clock that is right
    store = FolderStore.open_at(project.store)
    with store.writer() as living:
        living.write(b"half")
        made = project.run(env=faked(FAKETIME=shift))
        living.write(f"of it {shift}".encode())
        kept, _ = living.commit()
    counts.trials += 1
    counts.unless(store.has(kept), "lost", "what another was writing meanwhile")
    (run_id,) = set(project.run_ids()) - before
    assert made["status"] == "succeeded" and made["run_id"] == run_id
    result = project.record(run_id)["predicate"]["runDetails"]["mirage_result"]
    counts.unless(0 < result["durationS"] < 60, "corrupt", f"it took {result['durationS']} s")
    counts.unless(project.containers() == [], "orphans", "a container")
    assert {run_id} <= {run["run_id"] for run in project.asked("ls")["runs"]}
    assert project.asked("recover") == {"recovered": [], "left": []}


@pytest.mark.parametrize("jump", ["-2d", "+2d"])
def test_a_clock_that_jumps_during_a_run(
    project: Project, counted: Counted, tmp_path: Path, jump: str
) -> None:
    counts, clock = counted(CLOCKS), tmp_path / "clock"
    clock.write_text("+0\n")
    env = faked(FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1")
    before = set(project.run_ids())
    process = project.start("--config", "configs/a.yaml", "--json", "--timeout", "30s", env=env)
    wait_for(lambda: set(project.run_ids()) != before, 60)
    (run_id,) = set(project.run_ids()) - before
    log = project.folder / ".mirage" / "runs" / run_id / "log"
    wait_for(lambda: log.exists() and "saved" in log.read_text(), 60)
    clock.write_text(f"{jump}\n")
    _, err, code = project.ended(process, 60)
    counts.trials += 1
    assert code == 0, err
    result = project.record(run_id)["predicate"]["runDetails"]["mirage_result"]
    assert result["status"] == "succeeded"
    counts.unless(0 < result["durationS"] < 60, "corrupt", f"it took {result['durationS']} s")
    counts.unless(project.containers() == [], "orphans", "a container")
