"""Ctrl-C once, twice or three times at one point of a `mirage-run` on the real engine, and what must be so afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.figures import Counts
from tests.run_tools import Project

FIGURE = "Ctrl-C in each phase"
# Where it comes: `MOMENT KIND WHAT` of tests/killing/phases.py; and whether there is a run by then.
POINTS = {
    "build": ("before call POST .*/images/load", False),
    "fetch": ("before call POST .*/containers/create", True),
    "start": ("before call POST .*/start$", True),
    "run": ("after line published", True),
    "collect": ("after line collect", True),
    "record": ("before name runs/", True),
    "tidying up": ("before call DELETE .*/containers/", True),
}
# In a project whose store is a bucket: while layers, a version that was saved, and the record are on their way to it.
PUSHES = {
    "push of layers": ("before call PUT .*/blobs/", False),
    "push of a version": ("before call PUT .*/refs/", True),
    "push of a record": ("before call PUT .*/runs/", True),
}
WORKFLOW = """
import time
from mirage import artifact
artifact.Model.save({"epoch": 1}, name="checkpoint")
print("saved", flush=True)
time.sleep(1.5)
"""


def interrupted(project: Project, point: tuple[str, bool], times: int, counts: Counts) -> None:
    """130 and a record that says so, or the end as it was; never a traceback, a second record or a container left."""
    place, has_run = point
    met = project.root.parent / f"{project.root.name}.met"
    met.unlink(missing_ok=True)
    env = {
        "MIRAGE_TEST_MET": str(met),
        "MIRAGE_TEST_PHASE": place,
        "MIRAGE_TEST_SIGNAL": f"{int(signal.SIGINT)}x{times}",
        "PYTHONPATH": str(Path(__file__).parent / "killing"),
    }
    before = set(project.run_ids())
    fresh = f"training.lr={int.from_bytes(os.urandom(4), 'big')}"  # an image of its own: it has to be loaded
    process = project.start("--config", "configs/a.yaml", "--set", fresh, env=env)
    _, err, code = project.ended(process, 120)
    assert met.exists(), f"{place} was not met: {code}\n{err}"
    counts.trials += 1
    what = f"{place}, {times} times: exit code {code}\n{err}"
    assert "Traceback" not in err and "Exception ignored" not in err, what
    fresh_ids = set(project.run_ids()) - before
    assert len(fresh_ids) == has_run, what
    if not has_run:
        assert code == 130 and "nothing was run" in err, what
    told = project.asked("recover")
    counts.unless(
        told["left"] == [] or all("already" in each["reason"] for each in told["left"]),
        "lost",
        f"{what}{told}",
    )
    for run_id in fresh_ids:
        status = str(project.asked("show", run_id)["status"])
        assert (code, status) in ((130, "interrupted"), (130, "succeeded"), (0, "succeeded")), what
        assert code == 0 or status == "interrupted" or "mirage recover" in err, what
    counts.unless(project.containers() == [], "orphans", f"{what}: a container")
    again = project.asked("recover")
    counts.unless(again == {"recovered": [], "left": []}, "duplicates", f"{what}{again}")
