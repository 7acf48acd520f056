"""`retry: {infrastructure: N}` where a container is lost: made again, until N is used up, and never by recovery."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import Project, engine, wait_for

KILLING = {"PYTHONPATH": str(Path(__file__).parent / "killing")}
WORKFLOWS = {
    "short": "import time\nprint('on', flush=True)\ntime.sleep(4)\nprint('end')\n",
    "quick": "print('on')\n",
    "saves": "import time\nfrom mirage import artifact\nartifact.Model.save({'epoch': 1}, name='checkpoint')\n"
    "print('on', flush=True)\ntime.sleep(120)\n",
    "endless": "import time\nprint('on', flush=True)\ntime.sleep(120)\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("retries"),
        files={f"workflows/{name}.py": text for name, text in WORKFLOWS.items()}
        | {"configs/again.yaml": "mirage: {retry: {infrastructure: 1}}\n"},
    )


def begun(
    project: Project, workflow: str, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    words = ("--config", "configs/again.yaml", "--workflow", f"workflows.{workflow}", *words)
    return project.start(*words, env=env)


def next_run(project: Project, before: list[str]) -> str:
    """The run that began after those; its workflow has said something."""
    runs = project.folder / ".mirage" / "runs"

    def spoke() -> bool:
        fresh = [each for each in project.run_ids() if each not in before]
        return bool(fresh) and "on" in (
            (runs / fresh[-1] / "log").read_text() if (runs / fresh[-1] / "log").exists() else ""
        )

    wait_for(spoke, 60)
    return project.run_ids()[-1]


def lose(run_id: str, follower: int) -> None:
    """Remove a container behind the back of its follower, which sleeps meanwhile: it finds nothing."""
    os.kill(follower, signal.SIGSTOP)
    engine().remove_container(f"mirage-{run_id}", force=True)
    os.kill(follower, signal.SIGCONT)


def status(project: Project, run_id: str) -> str:
    return str(project.record(run_id)["predicate"]["runDetails"]["mirage_result"]["status"])


@pytest.fixture(scope="module")
def lost_once(project: Project) -> tuple[str, dict[str, Any]]:
    """A run that lost its first container and went well after it: the first id, and what `--json` said."""
    before = project.run_ids()
    process = begun(project, "short", "--json")
    first = next_run(project, before)
    lose(first, process.pid)
    out, err, code = project.ended(process, 90)
    assert code == 0, err
    assert (
        f"{first} was ended by the engine or the machine" in err
        and "making it again (0 more after this)" in err
    )
    return first, json.loads(out)


def test_a_lost_container_is_made_up_for(project: Project, lost_once: tuple[str, dict[str, Any]]) -> None:
    first, made = lost_once
    assert made["status"] == "succeeded" and made["retry_of"]["run"] == first
    assert [status(project, each) for each in (first, made["run_id"])] == ["lost", "succeeded"]
    assert project.mirage("logs", made["run_id"]) == "on\nend\n"
    assert project.containers() == []


def test_show_and_lineage_lead_from_one_attempt_to_the_next(
    project: Project, lost_once: tuple[str, dict[str, Any]]
) -> None:
    first, made = lost_once
    last = made["run_id"]
    assert f"retried  as {last}" in project.mirage("show", first)
    assert f"again    after {first}, which the engine or the machine ended" in project.mirage("show", last)
    assert (project.asked("show", first)["retried_by"], project.asked("show", last)["retried_by"]) == (
        [last],
        [],
    )
    edge = {"from": first, "to": last, "how": "retried"}
    assert edge in project.asked("lineage", last, "--up")["edges"]
    assert edge in project.asked("lineage", first, "--down")["edges"]
    assert f"└─ {first}  lost" in project.mirage("lineage", last, "--up")
    (found,) = project.asked("ls", "--where", f"retry_of = {first}")["runs"]
    assert found["run_id"] == last


def test_when_no_attempt_is_left_it_is_lost(project: Project) -> None:
    """And --detach: the id that was printed is the first one's."""
    before = project.run_ids()
    out, err, code = project.ended(begun(project, "endless", "--detach"))
    assert code == 0, err
    first = next_run(project, before)
    assert out.strip() == first
    waiting = project.start("wait", first, "--json", program="mirage")
    lose(first, _follower(project, first))
    second = next_run(project, [*before, first])
    assert f"{first} is being made again" in project.refused("--resume", first, code=2)
    lose(second, _follower(project, second))
    out, _, code = project.ended(waiting)
    told = json.loads(out)
    assert (told["run_id"], told["status"], code) == (second, "lost", 8), (
        "who waits for the first waits for the last"
    )
    assert status(project, first) == "lost"
    assert project.asked("show", first)["retried_by"] == [second]
    assert [each for each in project.run_ids() if each not in before] == [first, second]
    follower = (project.folder / ".mirage" / "runs" / first / "follower.log").read_text()
    assert "making it again (0 more after this)" in follower
    assert project.containers() == []


def test_cancel_of_the_first_attempt_ends_the_one_that_goes_on(project: Project) -> None:
    before = project.run_ids()
    process = begun(project, "endless")
    first = next_run(project, before)
    lose(first, process.pid)
    second = next_run(project, [*before, first])
    told = project.asked("cancel", first)
    assert (told["run_id"], told["status"]) == (second, "interrupted")
    assert project.ended(process)[2] == 130


def _follower(project: Project, run_id: str) -> int:
    """The process that holds a run's lock."""
    inode = (project.folder / ".mirage" / "runs" / run_id / "lock").stat().st_ino
    with open("/proc/locks") as lines:
        return next(int(line.split()[4]) for line in lines if f":{inode} " in line)


@pytest.mark.parametrize("how,said", [("Ctrl-C", "interrupted"), ("cancel", "cancelled by ")])
def test_ctrl_c_or_cancel_between_two_attempts_ends_it_there(project: Project, how: str, said: str) -> None:
    before = project.run_ids()
    process = begun(project, "endless", env={**KILLING, "MIRAGE_TEST_PAUSE": "5"})
    first = next_run(project, before)
    lose(first, process.pid)
    assert process.stderr is not None
    heard = ""
    while "making it again" not in heard:
        heard = process.stderr.readline()
        assert heard, "it said nothing of another attempt"
    if how == "Ctrl-C":
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
    else:
        assert project.asked("cancel", first)["status"] == "lost"  # the run that there was is as it was
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert f"{said}" in rest and "before the run was made again" in rest and f"mirage show {first}" in rest
    assert [each for each in project.run_ids() if each not in before] == [first]
    assert status(project, first) == "lost" and project.containers() == []


@pytest.mark.parametrize(
    "workflow,said",
    [("saves", "mirage-run --resume {}"), ("endless", "mirage-run --config configs/again.yaml")],
)
def test_recovery_makes_nothing_again_and_says_how_to_go_on(
    project: Project, workflow: str, said: str
) -> None:
    before = project.run_ids()
    process = begun(project, workflow)
    run_id = next_run(project, before)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    engine().remove_container(f"mirage-{run_id}", force=True)
    out = project.mirage("recover", run_id)
    assert f"{run_id} lost" in out and f"-> {said.format(run_id)}" in out.replace(
        "it had saved nothing: ", ""
    )
    assert [each for each in project.run_ids() if each not in before] == [run_id]


def test_ls_tells_a_run_by_its_record_and_never_a_dead_one_as_running(project: Project) -> None:
    """Killed after the record, before the journal's last line: nothing of the run is open but the tidying up."""
    env = {**KILLING, "MIRAGE_TEST_KILL_AT": "record"}
    before = project.run_ids()
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.quick", env=env)
    assert project.ended(process)[2] == -signal.SIGKILL
    (run_id,) = (each for each in project.run_ids() if each not in before)
    path = project.store / "runs" / f"{run_id[:4]}-{run_id[4:6]}" / run_id / "record.json"
    listed = {each["run_id"]: each["status"] for each in project.asked("ls")["runs"]}
    assert listed[run_id] == ("succeeded" if path.exists() else "unfinished")
    project.mirage("recover", run_id)
    assert {each["run_id"]: each["status"] for each in project.asked("ls")["runs"]}[run_id] == "succeeded"
    marker = project.folder / ".mirage" / "open" / run_id
    marker.touch()  # as where it died between the record and the last line
    assert [each["status"] for each in project.asked("ls")["runs"] if each["run_id"] == run_id] == [
        "succeeded"
    ]
    assert "sealed already" in project.mirage("recover", run_id)
    assert not marker.exists()
