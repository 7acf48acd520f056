"""Somebody on the host writes to a laid-out input while the run goes on: the record says so, whoever seals it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.run_tools import Project, wait_for

WORKFLOW = """
import time
from pathlib import Path
from mirage import artifact, config
rows = Path(artifact.load("dataset:rows:v1").path)
print("read", rows.read_text(), flush=True)
until = time.monotonic() + 30
while config.waits and rows.read_text() == "1,2,3" and time.monotonic() < until:
    time.sleep(0.05)
"""
TOLD = "changed from outside while the run went on: dataset:rows:v1"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project", WORKFLOW)
    (tmp_path / "rows.csv").write_text("1,2,3")
    made.mirage("artifact", "add", str(tmp_path / "rows.csv"), "--as", "dataset:rows")
    made.write("configs/a.yaml", "data: 'dataset:rows:v1'\nwaits: true\n")
    made.commit()
    return made


def test_an_input_that_is_written_to_during_a_run(project: Project) -> None:
    untouched = project.run("--set", "waits=false")
    assert (untouched["status"], untouched["reason"]) == ("succeeded", None)
    before = set(project.run_ids())
    process = project.start("--config", "configs/a.yaml", "--json")
    spoil(project, before)
    _, err, code = project.ended(process, 60)
    assert code == 0, err
    assert f"{TOLD}; its record says so" in err
    assert reason(project) == TOLD


def test_an_input_that_is_written_to_before_a_run_is_recovered(project: Project) -> None:
    process = project.start("--config", "configs/a.yaml")
    spoil(project, set())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (told,) = project.asked("recover")["recovered"]
    assert told["status"] == "succeeded"
    assert reason(project) == TOLD


def spoil(project: Project, before: set[str]) -> None:
    """Write to what a new run reads, once it has read it."""
    wait_for(lambda: set(project.run_ids()) != before, 60)
    (run_id,) = set(project.run_ids()) - before
    log = project.folder / ".mirage" / "runs" / run_id / "log"
    wait_for(lambda: log.exists() and "read 1,2,3" in log.read_text(), 60)
    (row,) = (project.folder / ".mirage" / "cache" / "trees").glob("*/rows.csv")
    row.chmod(0o644)
    row.write_text("4,5,6")


def reason(project: Project) -> object:
    run_id = project.run_ids()[-1]
    return project.record(run_id)["predicate"]["runDetails"]["mirage_result"]["reason"]
