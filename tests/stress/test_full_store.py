"""The disk of a project and its store becomes full while a workflow runs: told, kept, and sealed by the next command."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.figures import Counted
from tests.run_tools import Project, wait_for
from tests.store_tools import mounted, needs_root

pytestmark = pytest.mark.stress
WORKFLOW = """
import os, time
from mirage import artifact
print("kept", artifact.File.save(os.urandom(1000), name="before").id, flush=True)
time.sleep(1.5)
"""


def test_a_disk_that_becomes_full_during_a_run(tmp_path: Path, counted: Counted) -> None:
    needs_root()
    counts = counted("ENOSPC: the store's disk full during a run")
    with mounted(tmp_path / "disk", "size=400m") as disk:
        project = Project(disk / "project", WORKFLOW)
        process = project.start("--config", "configs/a.yaml")
        wait_for(lambda: any(line["event"] == "published" for line in project.journal()), 60)
        run_id = project.run_ids()[-1]
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as sink, suppress(OSError):
            while sink.write(bytes(1 << 20)):
                pass
        with filler.open("ab", buffering=0) as sink, suppress(OSError):
            while sink.write(b"x"):
                pass
        _, err, code = project.ended(process, 200)
        assert code == 7 and "No space left" in err and "Traceback" not in err
        assert f"mirage recover {run_id}" in err
        filler.unlink()
        (told,) = project.asked("recover")["recovered"]
        counts.trials += 1
        counts.unless((told["run_id"], told["status"]) == (run_id, "succeeded"), "lost", str(told))
        outputs = project.asked("show", run_id)["outputs"]
        counts.unless(outputs == ["file:before:v1"], "lost", str(outputs))
        counts.unless(project.containers() == [], "orphans", "a container")
