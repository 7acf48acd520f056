"""Runs that nobody sits in front of: --detach, wait, cancel, --timeout; and signals before and after the workflow."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.canary_tools import files_of, found
from tests.figures import Counted, Counts
from tests.run_tools import Project, wait_for

WORKFLOWS = {
    "short": "import time\nprint('on', flush=True)\ntime.sleep(2)\nprint('end')\n",
    "slow": "import time\nfrom mirage import artifact\nartifact.Model.save({'epoch': 1}, name='checkpoint')\n"
    "print('saved', flush=True)\ntime.sleep(120)\n",
    "stubborn": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('on', flush=True)\ntime.sleep(120)\n",
    "tells": "import time\nfrom mirage import secret\nvalue = secret('TOKEN')\nprint('it is', value[:5], end='', flush=True)\n"
    "time.sleep(0.5)\nprint(value[5:], flush=True)\nprint('and', value)\n",
    "fails": "import sys\nsys.exit(7)\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("detached"),
        files={f"workflows/{name}.py": text for name, text in WORKFLOWS.items()},
    )


def detached(project: Project, workflow: str, *words: str) -> str:
    run_id = project.mirage(
        "--config", "configs/a.yaml", "--workflow", f"workflows.{workflow}", "--detach", *words,
        program="mirage-run",
    ).strip()  # fmt: skip
    assert run_id == project.run_ids()[-1]
    return run_id


def result(project: Project, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = project.record(run_id)["predicate"]["runDetails"]["mirage_result"]
    return found


def said(project: Project, run_id: str, text: str) -> None:
    wait_for(lambda: text in (project.folder / ".mirage" / "runs" / run_id / "log").read_text(), 30)


def test_a_detached_run_is_followed_and_sealed(project: Project) -> None:
    began = time.monotonic()
    run_id = detached(project, "short")
    assert time.monotonic() - began < 2.5, "it waited for the end"
    assert {"run_id": run_id, "status": "running"} in project.asked("ls")["runs"]
    assert project.mirage("logs", "-f", run_id) == "on\nend\n"
    told = project.asked("wait", run_id)
    assert (told["run_id"], told["status"], told["exit_code"]) == (run_id, "succeeded", 0)
    assert result(project, run_id)["recovered"] is False
    assert project.asked("show", run_id)["status"] == "succeeded"
    follower = (project.folder / ".mirage" / "runs" / run_id / "follower.log").read_text()
    assert "succeeded" in follower and "\non\n" not in follower
    assert project.containers() == []


def test_a_detached_run_has_its_secrets_and_shows_none(project: Project) -> None:
    value = "sk-detached-93f1c2"
    env = {**os.environ, "TOKEN": value}
    words = ("--workflow", "workflows.tells", "--set", "mirage.run.secrets=[TOKEN]", "--detach")
    run_id = project.mirage("--config", "configs/a.yaml", *words, program="mirage-run", env=env).strip()
    project.mirage("wait", run_id)
    assert project.mirage("logs", run_id) == "it is [secret TOKEN]\nand [secret TOKEN]\n"
    assert found(files_of(project.folder), {"TOKEN": value}) == []


def test_what_keeps_a_detached_run_from_starting_is_seen_by_the_caller(project: Project) -> None:
    message = project.refused(
        "--config", "configs/a.yaml", "--workflow", "workflows.none", "--detach", code=2
    )
    assert "workflows.none is not in the commit" in message


def test_wait_has_the_exit_code_of_the_run(project: Project) -> None:
    run_id = detached(project, "fails")
    assert "failed (exit code 7)" in project.mirage("wait", run_id, code=1)
    assert json.loads(project.mirage("wait", run_id, "--json", code=1))["exit_code"] == 7


def test_cancel_of_a_run_that_another_process_follows(project: Project) -> None:
    run_id = detached(project, "slow")
    said(project, run_id, "saved")
    both = [project.start("cancel", run_id, "--json", program="mirage") for _ in range(2)]
    told = [json.loads(project.ended(each, 60)[0]) for each in both]
    assert [each["status"] for each in told] == ["interrupted", "interrupted"]
    assert result(project, run_id)["reason"] == "cancelled by root" if os.getuid() == 0 else True
    assert project.asked("show", run_id)["outputs"] == ["model:checkpoint:v1"]
    assert project.asked("cancel", run_id) == told[0]  # of a run that has ended: as it is
    assert project.containers() == []


def test_cancel_of_a_run_in_front_ends_its_mirage_run_with_130(project: Project) -> None:
    before = project.run_ids()
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.slow")
    wait_for(lambda: any(e["event"] == "start" for e in project.journal(without=before)), 60)
    project.mirage("cancel", project.run_ids()[-1])
    _, err, code = project.ended(process, 60)
    assert code == 130 and "cancelled by" in err


def test_cancel_of_a_run_that_nobody_follows(project: Project) -> None:
    before = project.run_ids()
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.slow")
    wait_for(lambda: any(e["event"] == "published" for e in project.journal(without=before)), 60)
    run_id = project.run_ids()[-1]
    process.kill()
    process.communicate()
    told = project.asked("cancel", run_id)
    assert (told["status"], told["run_id"]) == ("interrupted", run_id)
    assert result(project, run_id)["recovered"] is True
    assert result(project, run_id)["reason"].startswith("cancelled by ")
    assert project.containers() == []


def test_cancel_and_wait_of_what_is_not_there(project: Project) -> None:
    for command in ("cancel", "wait"):
        assert "there is no run" in project.refused(command, "20010101-000000", program="mirage", code=2)


def test_timeout_on_the_command_line(project: Project) -> None:
    made = project.run("--workflow", "workflows.slow", "--timeout", "2s", code=1)
    assert (made["status"], made["reason"]) == ("failed", "timeout")
    assert "--timeout" in project.refused("--config", "configs/a.yaml", "--timeout", "soon", code=2)


def test_a_signal_by_its_name(project: Project) -> None:
    run_id = detached(project, "slow")
    said(project, run_id, "saved")
    follower = next(line.split()[4].rstrip(":") for line in _locks(project, run_id))
    os.kill(int(follower), signal.SIGTERM)
    assert "interrupted by SIGTERM" in project.mirage("wait", run_id, code=130)


def _locks(project: Project, run_id: str) -> list[str]:
    """The lines of /proc/locks about a run's lock."""
    inode = (project.folder / ".mirage" / "runs" / run_id / "lock").stat().st_ino
    with open("/proc/locks") as lines:
        return [line for line in lines if f":{inode} " in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_began_leaves_nothing(project: Project, number: signal.Signals) -> None:
    """While it builds: the engine's answer is held back by a slow git in front of it."""
    slow = project.folder.parent / f"slow-{number.name}"
    slow.mkdir(exist_ok=True)
    (slow / "git").write_text(
        '#!/bin/sh\n[ -e "$0.there" ] || { touch "$0.there"; sleep 3; }\nexec /usr/bin/git "$@"\n'
    )
    (slow / "git").chmod(0o755)
    before = project.run_ids()
    process = project.start(
        "--config",
        "configs/a.yaml",
        "--workflow",
        "workflows.short",
        env={"PATH": f"{slow}:{os.environ['PATH']}"},
    )
    wait_for(lambda: (slow / "git.there").exists(), 30)
    os.kill(process.pid, number)
    _, err, code = project.ended(process, 60)
    assert code == 130, err
    assert "nothing was run" in err and "Traceback" not in err
    assert project.run_ids() == before


CTRL_C = "Ctrl-C at a line of the journal"


@pytest.mark.parametrize(
    "event,times", [("begun", 1), ("create", 2), ("start", 1), ("collect", 3), ("record", 1)]
)
def test_ctrl_c_at_lines_of_the_journal(project: Project, event: str, times: int, counted: Counted) -> None:
    ctrl_c(project, event, times, counted(CTRL_C))


def ctrl_c(project: Project, event: str, times: int, counts: Counts) -> None:
    """130 with a record, or the end as it was; or a next command that makes the record."""
    env = {
        "MIRAGE_TEST_KILL_AT": event, "MIRAGE_TEST_SIGNAL": f"{int(signal.SIGINT)}x{times}",
        "PYTHONPATH": os.path.join(os.path.dirname(__file__), "killing"),
    }  # fmt: skip
    before = set(project.run_ids())
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.fails", env=env)
    _, err, code = project.ended(process, 60)
    (run_id,) = set(project.run_ids()) - before
    assert "Traceback" not in err
    if "mirage recover" in err:
        project.mirage("recover")
    ended = result(project, run_id)
    if event in ("collect", "record"):
        assert (code, ended["status"]) in ((1, "failed"), (130, "failed"))
        assert code == 1 or "mirage recover" in err
    else:
        assert code == 130, err
        assert ended["status"] == "interrupted"
    counts.trials += 1
    counts.unless(project.containers() == [], "orphans", f"{event} {times}: a container")
    again = project.asked("recover")
    counts.unless(again == {"recovered": [], "left": []}, "duplicates", f"{event} {times}: {again}")
