"""How a run can end: each way is told apart, has its exit code, and leaves one record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import Project, engine, wait_for

WORKFLOWS = {
    "fails": "import sys\nprint('before')\nsys.exit(7)\n",
    "raises": "raise ValueError('what went wrong')\n",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "hungry": "data = bytearray(400 << 20)\nfor i in range(0, len(data), 4096): data[i] = 1\nprint('survived')\n",
    "child_hungry": (
        "import subprocess, sys\n"
        "child = 'd = bytearray(400 << 20)\\nfor i in range(0, len(d), 4096): d[i] = 1'\n"
        "done = subprocess.run([sys.executable, '-c', child])\nprint('child', done.returncode)\n"
    ),
    "slow": (
        "import time\nfrom mirage import artifact, metrics\n"
        "artifact.Model.save({'epoch': 1}, name='checkpoint')\nmetrics.log(epoch=1)\nprint('saved', flush=True)\n"
        "time.sleep(120)\n"
    ),
    "stubborn": (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(120)\n"
    ),
    "graceful": (
        "import signal, sys, time\nfrom mirage import artifact\n"
        "def stop(*_):\n    artifact.Model.save({'last': True}, name='last_words')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(120)\n"
    ),
    "talks": "import sys\nfor _ in range(20000):\n    sys.stdout.write('x' * 1023 + '\\n')\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("ends"),
        files={f"workflows/{name}.py": text for name, text in WORKFLOWS.items()}
        | {
            "configs/small.yaml": "mirage: {run: {memory: 128m}}\n",
            "configs/short.yaml": "mirage: {run: {timeout: 2s}}\n",
        },
    )


def ended(project: Project, workflow: str, code: int, config: str = "configs/a.yaml") -> dict[str, Any]:
    made = project.run("--workflow", f"workflows.{workflow}", code=code, config=config)
    assert project.record(made["run_id"])["subject"][0]["name"] == "run.json"
    assert project.containers() == []
    return made


def test_an_exit_code_of_its_own(project: Project) -> None:
    made = ended(project, "fails", 1)
    assert (made["status"], made["exit_code"], made["signal"], made["reason"]) == (
        "failed",
        7,
        None,
        "exit code 7",
    )
    assert project.mirage("logs", made["run_id"]) == "before\n"


def test_an_exception(project: Project) -> None:
    made = ended(project, "raises", 1)
    assert made["exit_code"] == 1
    assert "ValueError: what went wrong" in project.mirage("logs", made["run_id"])


def test_a_signal(project: Project) -> None:
    made = ended(project, "killed", 1)
    assert (made["exit_code"], made["signal"], made["reason"]) == (139, "SIGSEGV", "killed by SIGSEGV")


def test_out_of_memory(project: Project) -> None:
    made = ended(project, "hungry", 1, "configs/small.yaml")
    assert (made["exit_code"], made["signal"], made["reason"]) == (137, "SIGKILL", "out of memory")


def test_out_of_memory_of_a_child_is_no_failure_but_is_told(project: Project) -> None:
    made = ended(project, "child_hungry", 0, "configs/small.yaml")
    assert made["status"] == "succeeded"
    assert made["reason"] == "a child process ran out of memory"


def test_a_timeout(project: Project) -> None:
    started = time.monotonic()
    made = ended(project, "slow", 1, "configs/short.yaml")
    assert (made["status"], made["reason"]) == ("failed", "timeout")
    assert time.monotonic() - started < 30
    assert [output["id"] for output in made["outputs"]] == ["model:checkpoint:v1"]


def started(project: Project, workflow: str, said: str) -> subprocess.Popen[str]:
    """A run whose workflow has said something."""
    before = set(project.run_ids()) if (project.folder / ".mirage" / "runs").exists() else set()
    process = project.start("--config", "configs/a.yaml", "--workflow", f"workflows.{workflow}", "--json")

    def spoke() -> bool:
        assert process.poll() is None, process.communicate()
        logs = (project.folder / ".mirage" / "runs").glob("*/log")
        return any(said in log.read_text() for log in logs if log.parent.name not in before)

    wait_for(spoke, 60)
    return process


def newest(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = project.asked("show", "latest")
    return found


def test_ctrl_c_stops_it_with_grace_and_leaves_a_record(project: Project) -> None:
    process = started(project, "graceful", "ready")
    os.killpg(process.pid, signal.SIGINT)
    out, err, code = project.ended(process, 60)
    assert code == 130, err
    made = json.loads(out)
    assert (made["status"], made["reason"]) == ("interrupted", "interrupted by the user")
    assert [output["id"] for output in made["outputs"]] == ["model:last_words:v1"]
    assert project.containers() == []
    assert "Traceback" not in err


def test_ctrl_c_twice_does_not_wait_for_a_stubborn_workflow(project: Project) -> None:
    process = started(project, "stubborn", "ready")
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, _, code = project.ended(process, 60)
    assert code == 130
    assert time.monotonic() - began < 8  # the grace alone is 10 s
    assert json.loads(out)["signal"] == "SIGKILL"
    assert project.containers() == []


def test_ctrl_c_three_times_leaves_it_to_recover(project: Project) -> None:
    process = started(project, "stubborn", "ready")
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    _, err, code = project.ended(process, 60)
    assert code == 130
    if "mirage recover" in err:  # the kill may have been quicker than the third Ctrl-C
        project.mirage("recover")
    assert newest(project)["status"] == "interrupted"
    assert project.containers() == []


def test_kill_9_while_the_workflow_runs_then_recover(project: Project) -> None:
    process = started(project, "slow", "saved")
    run_id = project.run_ids()[-1]
    process.kill()
    process.wait()
    assert len(project.containers()) == 1
    assert {"run_id": run_id, "status": "unfinished"} in project.asked("ls")["runs"]
    for words in ((), ("--columns", "run_id,status")):
        out, err, code = project.ended(project.start("ls", *words, program="mirage"))
        assert code == 0 and "unfinished" in out and "recover" not in out
        assert err.startswith(f"{run_id} is unfinished: ") and "-> `mirage recover`" in err
        assert len(err.splitlines()) == 1
    assert project.ended(project.start("ls", "--json", program="mirage"))[1] == "", "programs have the status"
    engine().stop(f"mirage-{run_id}", timeout=1)
    told = project.asked("recover")
    assert [item["run_id"] for item in told["recovered"]] == [run_id]
    record = project.record(run_id)["predicate"]["runDetails"]["mirage_result"]
    assert (record["status"], record["exitCode"], record["recovered"]) == ("failed", 143, True)
    assert newest(project)["outputs"] == ["model:checkpoint:v1"]
    assert "saved" in project.mirage("logs", run_id)
    assert project.containers() == []
    assert project.asked("recover") == {"recovered": [], "left": []}
    assert project.ended(project.start("ls", program="mirage"))[1] == ""


def test_kill_9_then_recover_adopts_what_still_runs(project: Project) -> None:
    project.write(
        "workflows/finishes.py", "import time\nprint('on', flush=True)\ntime.sleep(4)\nprint('end')\n"
    )
    project.commit()
    process = started(project, "finishes", "on")
    run_id = project.run_ids()[-1]
    process.kill()
    process.wait()
    told = project.asked("recover", run_id)
    assert told["recovered"][0]["status"] == "succeeded"
    assert project.mirage("logs", run_id) == "on\nend\n"
    assert project.containers() == []


def test_the_next_run_settles_what_a_dead_one_left(project: Project) -> None:
    process = started(project, "slow", "saved")
    run_id = project.run_ids()[-1]
    process.kill()
    process.wait()
    engine().kill(f"mirage-{run_id}")
    project.run("--workflow", "workflows.fails", code=1)
    result = project.record(run_id)["predicate"]["runDetails"]["mirage_result"]
    assert (result["status"], result["exitCode"], result["signal"]) == ("failed", 137, "SIGKILL")
    assert project.containers() == []


def test_a_stop_that_a_dead_process_had_only_announced_is_carried_out(project: Project) -> None:
    """It died between the journal's line and the engine's call: whoever adopts the run must not wait for ever."""
    env = {"MIRAGE_TEST_KILL_AT": "stop", "PYTHONPATH": str(Path(__file__).parent / "killing")}
    process = project.start("--config", "configs/short.yaml", "--workflow", "workflows.slow", env=env)
    _, err, code = project.ended(process)
    assert code == -signal.SIGKILL, err
    told = project.asked("recover")
    assert [item["status"] for item in told["recovered"]] == ["failed"]
    assert newest(project)["reason"] == "timeout"
    assert project.containers() == []


def test_a_run_that_cannot_be_recovered_does_not_keep_others_from_running(project: Project) -> None:
    process = started(project, "slow", "saved")
    run_id = project.run_ids()[-1]
    process.kill()
    process.wait()
    plan = project.folder / ".mirage" / "runs" / run_id / "plan.json"
    good = plan.read_bytes()
    plan.write_bytes(good[:-20])
    engine().kill(f"mirage-{run_id}")
    project.run("--workflow", "workflows.fails", code=1)
    told = project.asked("recover")
    assert [item["run_id"] for item in told["left"]] == [run_id]
    assert "plan.json" in told["left"][0]["reason"]
    plan.write_bytes(good)
    assert [item["run_id"] for item in project.asked("recover")["recovered"]] == [run_id]
    assert project.containers() == []


def test_another_engine_or_store_leaves_a_run_alone(project: Project) -> None:
    """A recoverer that works with another engine must not call the run lost."""
    process = started(project, "slow", "saved")
    run_id = project.run_ids()[-1]
    process.kill()
    process.wait()
    plan = project.folder / ".mirage" / "runs" / run_id / "plan.json"
    good = plan.read_text()
    for name in ("engine", "store"):
        told = json.loads(good)
        plan.write_text(json.dumps({**told, name: "another"}))
        (left,) = project.asked("recover")["left"]
        assert name in left["reason"]
        assert len(project.containers()) == 1
    plan.write_text(good)
    engine().kill(f"mirage-{run_id}")
    assert [item["run_id"] for item in project.asked("recover")["recovered"]] == [run_id]


def test_a_container_removed_behind_its_back_is_lost(project: Project) -> None:
    process = started(project, "slow", "saved")
    engine().remove_container(f"mirage-{project.run_ids()[-1]}", force=True)
    out, _, code = project.ended(process, 60)
    made = json.loads(out)
    assert (code, made["status"]) == (8, "lost") or (code, made["status"], made["signal"]) == (
        1,
        "failed",
        "SIGKILL",
    )
    assert [output["id"] for output in made["outputs"]] == ["model:checkpoint:v1"]


def test_two_recoverers_make_one_record(project: Project) -> None:
    process = started(project, "slow", "saved")
    run_id = project.run_ids()[-1]
    process.kill()
    process.wait()
    engine().kill(f"mirage-{run_id}")
    both = [project.start("recover", "--json", program="mirage") for _ in range(2)]
    told = [json.loads(project.ended(each)[0]) for each in both]
    assert sum(len(each["recovered"]) for each in told) == 1
    assert project.containers() == []


def test_a_long_log_is_kept_whole(project: Project) -> None:
    made = ended(project, "talks", 0)
    assert len(project.mirage("logs", made["run_id"])) == 20000 * 1024


def test_a_reader_that_went_away_does_not_end_the_run(project: Project) -> None:
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.talks")
    assert process.stderr is not None and process.stdout is not None
    process.stderr.close()
    process.stdout.read()
    process.wait(60)
    assert newest(project)["status"] == "succeeded"


def test_a_save_is_safe_when_it_returns(project: Project) -> None:
    process = started(project, "slow", "saved")
    try:
        listed = [each["id"] for each in project.asked("artifact", "ls")["artifacts"]]
        assert "model:checkpoint:v1" in listed
    finally:
        process.terminate()
        project.ended(process)
