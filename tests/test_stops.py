"""Processes that are stopped for a while (SIGSTOP): what they come back to is still theirs, or still another's."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.artifacts.version import publish, resolve, versions
from orchestrator.store.folder import FolderStore
from tests.figures import Counted, Counts
from tests.run_tools import Project, wait_for
from tests.store_tools import FINE, check_store, injected, manifest

STOPPED = "SIGSTOP in the middle of a publish"
WORKFLOW = """
import time
from mirage import artifact
artifact.Model.save({"a": 1}, name="model")
print("saved", flush=True)
time.sleep(2)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("clocks"), WORKFLOW)


def stopped_at(root: Path, call: str, when: int, counts: Counts, trace: Path) -> bool:
    """A publisher stops there while another publishes under the same names; gives whether it came to that."""
    store = FolderStore.open_at(root)
    before = len(versions(store, "dataset", "data"))
    other: list[str] = []

    def meanwhile(child: int) -> None:
        deadline = time.monotonic() + 20
        while "--- stopped by SIGSTOP ---" not in trace.read_text(errors="replace"):
            if time.monotonic() > deadline or not Path(f"/proc/{child}").exists() or _is_zombie(child):
                return
            time.sleep(0.005)
        other.append(publish(store, manifest(store, text=f"other {call} {when}"), None, None).ref.version)
        os.kill(child, signal.SIGCONT)

    def slow() -> None:
        mine = FolderStore.open_at(root)
        publish(mine, manifest(mine, text=f"stopped {call} {when}"), None, None)

    trace.unlink(missing_ok=True)
    trace.touch()
    end, _ = injected(slow, f"{call}:signal=STOP:when={when}", trace, meanwhile=meanwhile)
    assert end == FINE
    if not other:
        return False
    counts.trials += 1
    made = versions(store, "dataset", "data")[before:]
    counts.unless(len(made) >= 2, "lost", f"{call} {when}: {made}")
    counts.unless(len(made) <= 2, "duplicates", f"{call} {when}: {made}")
    digests = {resolve(store, f"dataset:data:{version}").digest for version in made}
    counts.unless(len(digests) == len(made), "lost", f"{call} {when}: one replaced the other")
    return True


def _is_zombie(process: int) -> bool:
    return ") Z" in Path(f"/proc/{process}/stat").read_text()


def test_a_publisher_that_is_stopped_does_not_take_what_another_was_given(
    tmp_path: Path, counted: Counted
) -> None:
    counts, root = counted(STOPPED), tmp_path / "store"
    for call in ("fsync", "rename", "link"):
        when = 1
        while stopped_at(root, call, when, counts, tmp_path / "trace"):
            when += 1
    check_store(root)
    assert counts.trials >= 8


def test_a_stopped_mirage_run_keeps_its_run(project: Project) -> None:
    """It is not dead, and whoever recovers must not take its run from it, however long it sleeps."""
    process = project.start("--config", "configs/a.yaml", "--json")
    wait_for(lambda: any(line["event"] == "published" for line in project.journal()), 60)
    run_id = project.run_ids()[-1]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        (left,) = project.asked("recover")["left"]
        assert left["run_id"] == run_id and "alive" in left["reason"]
        time.sleep(3)  # the workflow ends meanwhile
        assert {"run_id": run_id, "status": "running"} in project.asked("ls")["runs"]
    finally:
        os.kill(process.pid, signal.SIGCONT)
    _, err, code = project.ended(process, 60)
    assert code == 0, err
    assert project.asked("show", run_id)["outputs"] == ["model:model:v1"]
    assert project.asked("recover") == {"recovered": [], "left": []}
