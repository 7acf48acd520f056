"""The engine restarts, or hangs, while a run goes on: the right exit code, or `interrupted: daemon_restart`; all of the log."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.canary_tools import files_of, found
from tests.engine_tools import SecondEngine
from tests.figures import Counted, Counts
from tests.run_tools import Project, wait_for

SECRET = "sk-through-a-restart-58ad"
WORKFLOWS = {
    "counts": "import sys, time\nfor i in range(30):\n    print(i, flush=True)\n    time.sleep(0.1)\nsys.exit(7)\n",
    "saves": "import time\nfrom mirage import artifact\nprint('on', flush=True)\nfor i in range(4):\n    time.sleep(1)\n"
    "    artifact.Model.save({'epoch': i}, name='checkpoint')\nprint('end')\n",
    "tells": "import time\nfrom mirage import secret\nvalue = secret('TOKEN')\nprint('first', value, flush=True)\n"
    "print('half', value[:9], end='', flush=True)\ntime.sleep(4)\nprint(value[9:])\nprint('last', value)\n",
    "polite": "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\nprint('on', flush=True)\n"
    "time.sleep(6)\nprint('end')\nsys.exit(5)\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(
        tmp_path_factory.mktemp("restarts"),
        files={f"workflows/{name}.py": text for name, text in WORKFLOWS.items()},
    )
    made.mirage(
        "image", "build", "--config", "configs/a.yaml"
    )  # the second engine has no network to build in
    return made


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondEngine]:
    with SecondEngine(tmp_path_factory.mktemp("engine") / "l", live_restore=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondEngine]:
    with SecondEngine(tmp_path_factory.mktemp("engine") / "e") as engine:
        yield engine


RESTARTS = "T5 engine: ended and started again"


def restarted(
    project: Project,
    counts: Counts,
    engine: SecondEngine,
    workflow: str,
    said: str,
    number: signal.Signals,
    away: float = 1.0,
    config: str = "configs/a.yaml",
) -> tuple[dict[str, object], int, str]:
    """What `mirage-run --json` said of a run whose engine was restarted after it had said something."""
    before = set(project.run_ids()) if (project.folder / ".mirage" / "runs").exists() else set()
    process = project.start(
        "--config", config, "--workflow", f"workflows.{workflow}", "--json", env=engine.env
    )

    def spoke() -> bool:
        assert process.poll() is None, process.communicate()
        logs = (project.folder / ".mirage" / "runs").glob("*/log")
        return any(said in log.read_text().splitlines() for log in logs if log.parent.name not in before)

    wait_for(spoke, 60)
    engine.restart(number, away)
    out, err, code = project.ended(process, 90)
    assert "Traceback" not in err
    counts.trials += 1
    counts.unless(engine.api().containers(all=True) == [], "orphans", f"a container was left ({code})\n{err}")
    counts.unless(
        project.asked("show", "latest")["run_id"] == json.loads(out)["run_id"], "lost", "its record"
    )
    return json.loads(out), code, err


def test_killed_with_live_restore(project: Project, living: SecondEngine, counted: Counted) -> None:
    """The workflow runs on; the code is its own, and the log has every line once."""
    made, code, _ = restarted(project, counted(RESTARTS), living, "counts", "5", signal.SIGKILL)
    assert (code, made["status"], made["exit_code"]) == (1, "failed", 7)
    assert project.mirage("logs", str(made["run_id"])) == "".join(f"{i}\n" for i in range(30))


def test_a_secret_is_taken_out_on_both_sides_of_a_restart(project: Project, living: SecondEngine) -> None:
    process = project.start(
        "--config", "configs/a.yaml", "--workflow", "workflows.tells", "--json",
        "--set", "mirage.run.secrets=[TOKEN]", env={**living.env, "TOKEN": SECRET},
    )  # fmt: skip
    runs = project.folder / ".mirage" / "runs"
    wait_for(lambda: any("half" in log.read_text() for log in runs.glob("*/log")), 60)
    living.restart(signal.SIGKILL, 1.0)
    out, err, code = project.ended(process, 90)
    assert code == 0, err
    log = project.mirage("logs", json.loads(out)["run_id"])
    assert log == "first [secret TOKEN]\nhalf [secret TOKEN]\nlast [secret TOKEN]\n"
    assert found({**files_of(project.folder), "terminal": (out + err).encode()}, {"TOKEN": SECRET}) == []


def test_killed_and_away_while_the_workflow_ends(
    project: Project, second: SecondEngine, counted: Counted
) -> None:
    made, code, err = restarted(project, counted(RESTARTS), second, "counts", "24", signal.SIGKILL, 2)
    assert (code, made["status"], made["exit_code"]) == (1, "failed", 7)
    whole = "".join(f"{i}\n" for i in range(30))
    log = project.mirage("logs", str(made["run_id"]))
    # the engine may have died between a line and its end, which are two writes of a workflow without buffers
    assert log == whole or (whole.startswith(log) and "may be missing" in err), err


def test_stopped_with_its_containers(project: Project, second: SecondEngine, counted: Counted) -> None:
    """The exit code looks like the workflow's own, and is not taken for it."""
    made, code, _ = restarted(project, counted(RESTARTS), second, "polite", "on", signal.SIGTERM)
    assert (code, made["status"], made["reason"]) == (130, "interrupted", "daemon_restart")


def test_made_again_where_the_engine_ended_it(
    project: Project, second: SecondEngine, counted: Counted
) -> None:
    """Each attempt has a record, the later names the one before; a failure of its own is not made again."""
    before = set(project.run_ids())
    project.write("configs/again.yaml", "mirage: {retry: {infrastructure: 2}}\n")
    project.commit()
    made, code, err = restarted(
        project, counted(RESTARTS), second, "polite", "on", signal.SIGTERM, config="configs/again.yaml"
    )
    assert (code, made["status"], made["exit_code"]) == (1, "failed", 5), err
    first, last = sorted(set(project.run_ids()) - before)
    assert last == made["run_id"] and "making it again (1 more" in err
    link = project.record(last)["predicate"]["buildDefinition"]["internalParameters"]["retryOf"]
    assert made["retry_of"] == link and link["run"] == first
    assert project.record(first)["predicate"]["runDetails"]["mirage_result"]["reason"] == "daemon_restart"
    assert link["record"] == sha256_of(project, first)


def sha256_of(project: Project, run_id: str) -> str:
    path = project.store / "runs" / f"{run_id[:4]}-{run_id[4:6]}" / run_id / "record.json"
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_frozen_engine_is_told_and_waited_for(project: Project, second: SecondEngine) -> None:
    env = {
        **second.env, "MIRAGE_TEST_HEARTBEAT": "0.5", "PYTHONPATH": str(Path(__file__).parent / "killing")
    }  # fmt: skip
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.saves", "--json", env=env)
    wait_for(lambda: any(line["event"] == "published" for line in project.journal()), 60)
    os.kill(second.pid, signal.SIGSTOP)
    time.sleep(7)
    os.kill(second.pid, signal.SIGCONT)
    out, err, code = project.ended(process, 60)
    assert code == 0, err
    assert "the engine has not answered for" in err and "the engine answers again" in err
    assert len(json.loads(out)["outputs"]) == 4
