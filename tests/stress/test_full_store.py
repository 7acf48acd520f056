"""The disk of a project and its store becomes full while a workflow runs: told, kept, and sealed by the next command."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.figures import Counted
from tests.run_tools import Project
from tests.store_tools import mounted, needs_root

pytestmark = pytest.mark.stress
WORKFLOW = """
import os, time
from mirage import artifact
print("kept", artifact.File.save(os.urandom(1000), name="before").id, flush=True)
time.sleep(4)
"""


@pytest.mark.parametrize("kept", [True, False], ids=["ended-before", "to-the-last-byte"])
def test_a_disk_that_becomes_full_during_a_run(tmp_path: Path, counted: Counted, kept: bool) -> None:
    """Usually the run is ended first, and both say why, also the record that comes later; or it goes on to the end."""
    needs_root()
    counts = counted("ENOSPC: the store's disk full during a run")
    settings = "project: probe\nworkflow: workflows.main\n"
    settings += "" if kept else "run: {outputs: {keep_free: 0}}\n"
    with mounted(tmp_path / "disk", "size=400m") as disk:
        project = Project(disk / "project", WORKFLOW, files={".mirage/project.yaml": settings})
        process = project.start("--config", "configs/a.yaml")
        project.wait_for_event("published")
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
        assert ("the run was ended: disk: " in err) == kept, err
        filler.unlink()
        (told,) = project.asked("recover")["recovered"]
        counts.trials += 1
        expected = "failed" if kept else "succeeded"
        counts.unless((told["run_id"], told["status"]) == (run_id, expected), "lost", str(told))
        shown = project.asked("show", run_id)
        counts.unless(shown["outputs"] == ["file:before:v1"], "lost", str(shown["outputs"]))
        assert ("must stay (run.outputs.keep_free)" in str(shown["reason"])) == kept, shown["reason"]
        counts.unless(project.containers() == [], "orphans", "a container")
