"""mirage-run killed at one point of a run on the real engine, then `mirage recover`: one record, the right end."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from orchestrator.artifacts.version import every, publish
from orchestrator.store.folder import FolderStore
from tests.figures import Counts
from tests.run_tools import Project
from tests.store_tools import check_store, manifest, whole

# What each leads to: no run at all, a run whose workflow never started, one whose workflow ended by itself.
NONE, NEVER, ENDED = "none", "never", "ended"
PHASES = {
    "before line begun": NONE,
    "torn line begun": NONE,
    "after line begun": NEVER,
    "before line create": NEVER,
    "after line create": NEVER,
    "after call POST .*/containers/create": NEVER,
    "before line start": NEVER,
    "torn line start": NEVER,
    "after line start": NEVER,
    "before call POST .*/start$": NEVER,
    "after call POST .*/start$": ENDED,
    "before name refs/": ENDED,
    "after name refs/": ENDED,
    "before line published": ENDED,
    "torn line published": ENDED,
    "after line published": ENDED,
    "after call POST .*/wait": ENDED,
    "after line collect": ENDED,
    "before line record": ENDED,
    "after line record": ENDED,
    "after name log/": ENDED,
    "after name runs/": ENDED,
    "before call DELETE .*/containers/": ENDED,
    "before line closed": ENDED,
}
WORKFLOW = """
import os, sys
from mirage import artifact
print("saved", artifact.Model.save(os.urandom(1000), name="checkpoint").id, flush=True)
sys.exit(7)
"""


class Phases:
    """One project, whose runs are killed one after another."""

    def __init__(self, root: Path, counts: Counts) -> None:
        self._project = Project(root, WORKFLOW)
        self._counts = counts
        self._project.mirage("image", "build", "--config", "configs/a.yaml")

    def once(self, phase: str) -> None:
        """Kill a run there, recover, and count what is not as it must be."""
        project, counts = self._project, self._counts
        counts.trials += 1
        before, versions = set(project.run_ids()), self._versions()
        process = project.start(
            "--config", "configs/a.yaml",
            env={"MIRAGE_TEST_PHASE": phase, "PYTHONPATH": _path(Path(__file__).parent / "killing")},
        )  # fmt: skip
        _, err, code = project.ended(process, 120)
        assert code == -signal.SIGKILL, f"{phase} was not met: {code}\n{err}"
        (run_id,) = set(project.run_ids()) - before
        before_it = {self._published_by_another()} if PHASES[phase] != NONE else set()
        began = time.monotonic()
        told = project.asked("recover")
        seconds = time.monotonic() - began
        counts.unless(told["left"] == [] or _harmless(told), "lost", f"{phase}: {told}")
        counts.unless(seconds < 20, "lost", f"{phase}: recovery took {seconds:.0f} s")
        self._judge(phase, run_id, self._versions() - versions - before_it)
        again = project.asked("recover")
        counts.unless(
            again == {"recovered": [], "left": []}, "duplicates", f"{phase}: recovered twice: {again}"
        )
        counts.unless(project.containers() == [], "orphans", f"{phase}: a container is left")
        left = list((project.folder / ".mirage" / "open").iterdir())
        counts.unless(left == [], "orphans", f"{phase}: left open: {left}")

    def _judge(self, phase: str, run_id: str, made: set[str]) -> None:
        counts, project = self._counts, self._project
        listed = [run for run in project.asked("ls")["runs"] if run["run_id"] == run_id]
        counts.unless(len(listed) < 2, "duplicates", f"{phase}: listed {len(listed)} times")
        if PHASES[phase] == NONE:
            counts.unless(not listed and not made, "orphans", f"{phase}: {listed} {made}")
            return
        if not listed or listed[0]["status"] in ("unfinished", "running"):
            counts.found("lost", f"{phase}: no record ({listed})")
            return
        details = project.record(run_id)["predicate"]["runDetails"]
        result = details["mirage_result"]
        end = result["status"], result["exitCode"]
        expected = ("interrupted", None) if PHASES[phase] == NEVER else ("failed", 7)
        counts.unless(end == expected, "corrupt", f"{phase}: ended as {end}, not {expected}")
        outputs = set(project.asked("show", run_id)["outputs"])
        counts.unless(outputs == made, "lost", f"{phase}: the record has {outputs}, the store {made}")
        if PHASES[phase] == NEVER:
            counts.unless(not made, "duplicates", f"{phase}: {made}")
            return
        counts.unless(len(made) >= 1, "lost", f"{phase}: its output")
        counts.unless(len(made) <= 1, "duplicates", f"{phase}: {made}")
        log = project.mirage("logs", run_id)
        counts.unless(log == "".join(f"saved {id}\n" for id in made), "lost", f"{phase}: the log is {log!r}")
        for id in made:
            try:
                whole(FolderStore.open_at(project.store), id)
            except Exception as error:  # whatever a damaged store makes the code say
                counts.found("corrupt", f"{phase}: {id}: {error!r}")

    def _published_by_another(self) -> str:
        """Others publish under the same name before anybody recovers the run."""
        store = FolderStore.open_at(self._project.store)
        made = replace(manifest(store, "checkpoint", os.urandom(8).hex()), kind="model")
        return str(publish(store, made, None, None).ref)

    def _versions(self) -> set[str]:
        if not (self._project.store / "store.json").exists():
            return set()
        return {str(ref) for ref in every(FolderStore.open_at(self._project.store))}

    def check(self) -> None:
        """Everything in the store is whole, and its log."""
        check_store(self._project.store)
        out, err, code = self._project.ended(self._project.start("log", "verify", program="mirage"))
        doubled = any(line.startswith("doubled") for line in out.splitlines())
        self._counts.unless(
            code == 0, "duplicates" if doubled else "corrupt", f"the log of records: {out}{err}"
        )


def _harmless(told: dict[str, list[dict[str, str]]]) -> bool:
    """What recovery left alone because nothing was left to do."""
    reasons = ("its record was there already", "it had not begun", "it was sealed already")
    return all(each["reason"].startswith(reasons) for each in told["left"])


def _path(*folders: Path) -> str:
    known = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([known] if known else [])])
