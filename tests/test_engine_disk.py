"""The disk of the engine is full while a container starts, and while a run goes on: each ends in a message that says so,
with exit code 8 where it did not succeed, with a record where a run began, and the same command works once there is space.

stress/test_engine_disk_more.py has what comes before a run: a load and a build.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.engine_tools import SecondEngine
from tests.figures import Counted, Counts
from tests.power_tools import Disk, an_ext4
from tests.run_tools import Project, wait_for

FULL = "ENOSPC: the engine's disk full"
LINES = 3000
WORKFLOWS = {
    "quick": "print('hello')\n",
    "floods": f"""
import time
from mirage import artifact
print("on", flush=True)
time.sleep(2)
for number in range({LINES}):
    print(number, "x" * 1000, flush=True)
print("saved", artifact.File.save(b"kept", name="kept").id)
""",
}


class Place:
    """A project, and an engine of its own on a disk of its own."""

    def __init__(self, project: Project, disk: Disk, engine: SecondEngine) -> None:
        self.project, self.disk, self.engine = project, disk, engine

    @contextmanager
    def filled(self, leave: int = 0) -> Iterator[None]:
        """Nothing is left on the engine's disk, or so many bytes."""
        filler = self.disk.folder / "filler"
        with filler.open("wb", buffering=0) as sink, suppress(OSError):
            while shutil.disk_usage(self.disk.folder).free > leave and sink.write(bytes(1 << 20)):
                pass
        with filler.open("ab", buffering=0) as sink, suppress(OSError):
            while not leave and sink.write(bytes(512)):
                pass
        try:
            yield
        finally:
            filler.unlink()

    def refused(self, *words: str, program: str = "mirage-run") -> str:
        """What was said of a command that must end with 8 and what to do about it."""
        out, err, code = self.project.ended(
            self.project.start(*words, program=program, env=self.engine.env), 120
        )
        assert code == 8, f"{code}\n{out}\n{err}"
        assert "no space left on device" in err.lower() and "Traceback" not in err
        assert "-> the engine's disk is full: `docker system df`" in err
        return err

    def works(self, counts: Counts) -> None:
        """The same command, once there is space; and nothing is left behind."""
        made = self.project.run("--workflow", "workflows.quick", env=self.engine.env)
        assert made["status"] == "succeeded"
        counts.unless(self.engine.api().containers(all=True) == [], "orphans", "a container")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    top = tmp_path_factory.mktemp("full")
    project = Project(
        top / "project", files={f"workflows/{name}.py": text for name, text in WORKFLOWS.items()}
    )
    project.mirage("image", "build", "--config", "configs/a.yaml")  # by the machine's engine: into the cache
    with an_ext4(top, 800) as disk, SecondEngine(disk.folder / "e") as engine:
        yield Place(project, disk, engine)


def test_while_a_container_is_made(place: Place, counted: Counted) -> None:
    counts = counted(FULL)
    counts.trials += 1
    place.works(counts)
    before = set(place.project.run_ids())
    with place.filled():
        err = place.refused("--config", "configs/a.yaml", "--workflow", "workflows.quick")
        (run_id,) = set(place.project.run_ids()) - before
        assert f"mirage show {run_id}" in err
        result = place.project.record(run_id)["predicate"]["runDetails"]["mirage_result"]
        counts.unless(result["status"] == "failed", "lost", str(result))
        assert "no space left" in result["reason"]
        counts.unless(place.project.asked("recover")["left"] == [], "orphans", "an open run")
    place.works(counts)


def test_while_a_run_goes_on(place: Place, counted: Counted) -> None:
    """The engine can keep neither its log nor how the container ended; the run's own log and end are whole."""
    counts = counted(FULL)
    counts.trials += 1
    place.works(counts)
    project = place.project
    before = set(project.run_ids())
    process = project.start(
        "--config", "configs/a.yaml", "--workflow", "workflows.floods", env=place.engine.env
    )
    wait_for(lambda: len(set(project.run_ids()) - before) == 1, 60)
    (run_id,) = set(project.run_ids()) - before
    log = project.folder / ".mirage" / "runs" / run_id / "log"
    wait_for(lambda: log.exists() and "on" in log.read_text(), 60)
    with place.filled():
        _, err, code = project.ended(process, 120)
        assert code == 0, err
        counts.unless(project.asked("show", run_id)["outputs"] == ["file:kept:v1"], "lost", "its output")
        lines = project.mirage("logs", run_id).splitlines()
        numbers = [line.partition(" ")[0] for line in lines[1:-1]]
        counts.unless(
            numbers == [str(number) for number in range(LINES)], "lost", f"of its log: {len(lines)}"
        )
        counts.unless(place.engine.api().containers(all=True) == [], "orphans", "a container")
    place.works(counts)
