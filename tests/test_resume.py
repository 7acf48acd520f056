"""`mirage-run --resume`: a run that died goes on from what it had saved, and its record says from what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import Project, engine, wait_for

# A training whose state is all in its checkpoint; it waits in its third epoch, unless it was resumed.
TRAINING = """\
import random, time
from mirage import artifact, config, flow, metrics

@flow
def train():
    before = artifact.Model.resumed("checkpoint")
    noise = random.Random(7)
    state = {"epoch": 0, "weights": [0.0] * 8}
    if before is not None:
        state = before.load()
        noise.setstate(as_state(state["noise"]))
        print("goes on from", before.id, "of epoch", before.metadata["epoch"], flush=True)
    while state["epoch"] < 5:
        state["weights"] = [w + config.training.lr * noise.gauss(0, 1) for w in state["weights"]]
        state["epoch"] += 1
        state["noise"] = noise.getstate()
        artifact.Model.save(state, name="checkpoint", metadata={"epoch": state["epoch"]})
        metrics.log(loss=sum(w * w for w in state["weights"]), step=state["epoch"])
        print("epoch", state["epoch"], flush=True)
        if state["epoch"] == 3 and before is None and config.get("training.halts"):
            time.sleep(120)
    artifact.Model.save(state["weights"], name="final")

def as_state(value):
    return (value[0], tuple(value[1]), value[2])

if __name__ == "__main__":
    train()
"""
WORKFLOWS = {
    "train": TRAINING,
    # says what it was given, saves once more, and fails in its own way
    "chain": (
        "import sys\nfrom mirage import artifact, config\n"
        "print('given', [a.id for a in artifact.resumed()], sorted(artifact.inputs()))\n"
        "for n in range(2):\n    artifact.File.save({'part': n, 'given': len(artifact.resumed())}, name='part')\n"
        "if not artifact.resumed():\n    artifact.Report.save('said once', name='said')\n"
        "sys.exit(3)\n"
    ),
    "silent": "import sys\nsys.exit(5)\n",
    "slow": "import time\nfrom mirage import artifact\nartifact.File.save('s', name='slow')\nprint('saved', flush=True)\n"
    "time.sleep(120)\n",
    "hungry": "from mirage import artifact\nartifact.File.save('h', name='hungry')\n"
    "data = bytearray(200 << 20)\nfor i in range(0, len(data), 4096): data[i] = 1\nprint('survived')\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("resume"),
        files={f"workflows/{name}.py": text for name, text in WORKFLOWS.items()}
        | {
            "configs/train.yaml": "training: {lr: 1e-1, halts: true}\n",
            "configs/small.yaml": "mirage: {run: {memory: 96m}}\n",
        },
    )


def resumed(project: Project, run: str, *words: str, code: int = 0) -> dict[str, Any]:
    out = project.mirage("--resume", run, "--json", *words, program="mirage-run", code=code)
    found: dict[str, Any] = json.loads(out)
    return found


def refused(project: Project, *words: str, code: int = 2) -> str:
    return project.refused("--resume", *words, code=code)


def internal(project: Project, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = project.record(run_id)["predicate"]["buildDefinition"]["internalParameters"]
    return found


def begun(
    project: Project, workflow: str, said: str, config: str = "configs/a.yaml"
) -> subprocess.Popen[str]:
    """A run whose workflow has said something."""
    before = set(project.run_ids())
    process = project.start("--config", config, "--workflow", f"workflows.{workflow}")

    def spoke() -> bool:
        assert process.poll() is None, process.communicate()
        logs = (project.folder / ".mirage" / "runs").glob("*/log")
        return any(said in log.read_text() for log in logs if log.parent.name not in before)

    wait_for(spoke, 60)
    return process


@pytest.fixture(scope="module")
def died(project: Project) -> str:
    """A training that was killed in its third epoch: its whole process group, and its container."""
    process = begun(project, "train", "epoch 3", "configs/train.yaml")
    run_id = project.run_ids()[-1]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    engine().remove_container(f"mirage-{run_id}", force=True)
    return run_id


def outputs(made: dict[str, Any], name: str) -> list[str]:
    return [each["digest"] for each in made["outputs"] if each["id"].startswith(f"model:{name}:")]


@pytest.fixture(scope="module")
def went_on(project: Project, died: str) -> dict[str, Any]:
    project.write(
        "workflows/train.py", "raise SystemExit('not this one')\n"
    )  # the commit's counts, not the disk's
    try:
        return resumed(project, died)
    finally:
        project.write("workflows/train.py", TRAINING)


def test_a_training_that_was_killed_ends_as_the_one_that_was_not(
    project: Project, died: str, went_on: dict[str, Any]
) -> None:
    whole = project.run(
        "--workflow", "workflows.train", "--set", "training.halts=false", config="configs/train.yaml"
    )
    assert went_on["status"] == whole["status"] == "succeeded"
    assert outputs(went_on, "final") == outputs(whole, "final") != []
    assert went_on["metrics"] == whole["metrics"]
    log = project.mirage("logs", went_on["run_id"])
    assert log.startswith("goes on from model:checkpoint:v3 of epoch 3\nepoch 4\n")
    assert project.record(died)["predicate"]["runDetails"]["mirage_result"]["status"] == "lost"
    assert project.containers() == []


def test_the_record_says_what_is_resumed_from_what(
    project: Project, died: str, went_on: dict[str, Any]
) -> None:
    run_id = went_on["run_id"]
    link = {
        "run": died,
        "record": project.asked("show", died)["record"],
        "artifacts": ["model:checkpoint:v3"],
    }
    assert internal(project, run_id)["resumeOf"] == went_on["resume_of"] == link
    assert internal(project, died)["resumeOf"] is None
    first, second = (project.record(each)["predicate"]["buildDefinition"] for each in (died, run_id))
    assert first["externalParameters"] == second["externalParameters"]
    assert went_on["inputs"][-1]["id"] == "model:checkpoint:v3"
    assert first["internalParameters"]["runKey"] != second["internalParameters"]["runKey"]
    for name in ("imageKey", "configHash", "seed", "determinism", "timeout"):
        assert first["internalParameters"][name] == second["internalParameters"][name]
    told = project.asked("verify", run_id)
    assert told["verdict"] == "ok", told


def test_a_record_that_names_another_run_is_found_out(
    project: Project, went_on: dict[str, Any], tmp_path: Path
) -> None:
    """verify follows the link: to that record, and to what it had saved."""
    run_id = str(went_on["run_id"])
    path = project.store / "runs" / f"{run_id[:4]}-{run_id[4:6]}" / run_id / "record.json"
    good = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(
            good.replace(b'"artifacts":["model:checkpoint:v3"]', b'"artifacts":["model:checkpoint:v2"]')
        )
        out = project.mirage("verify", run_id, "--json", code=9)
        checks = {each["check"] for each in json.loads(out)["findings"] if each["state"] == "mismatch"}
        assert {"inputs", "resumed model:checkpoint:v2"} <= checks
    finally:
        path.write_bytes(good)


def test_show_lineage_and_diff_know_it(project: Project, died: str, went_on: dict[str, Any]) -> None:
    run_id = went_on["run_id"]
    assert f"resumes  {died}, from model:checkpoint:v3" in project.mirage("show", run_id)
    assert f"resumed  by {run_id}" in project.mirage("show", died)
    assert project.asked("show", run_id)["resume_of"] == died
    assert project.asked("show", died)["resumed_by"] == [run_id]
    edges = project.asked("lineage", run_id, "--up")["edges"]
    assert {"from": "model:checkpoint:v3", "to": run_id, "how": "resumed"} in edges
    assert {"from": died, "to": "model:checkpoint:v3", "how": "saved"} in edges
    below = project.asked("lineage", died, "--down")["edges"]
    assert {"from": "model:checkpoint:v3", "to": run_id, "how": "resumed"} in below
    assert "(resumed)" in project.mirage("lineage", run_id, "--up")
    page = project.folder.parent / "report.html"
    project.mirage("report", run_id, "-o", str(page))
    assert f"saved by {died}, which this run resumes" in page.read_text()
    sections = {each["section"]: each for each in project.asked("diff", died, run_id)["differences"]}
    assert [each["name"] for each in sections["inputs"]["changes"]] == ["model:checkpoint:v3"]
    listed = project.asked("ls", "--where", f"resume_of = {died}")["runs"]
    assert [each["run_id"] for each in listed] == [run_id]


def test_made_again_and_what_is_nothing_to_resume(project: Project, went_on: dict[str, Any]) -> None:
    """Made again with the same checkpoint, to the same end; neither of the two leaves anything to go on with."""
    told = json.loads(project.mirage("reproduce", went_on["run_id"], "--json"))
    assert told["verdict"] == "IDENTICAL"
    assert f"made {went_on['run_id']} again" in refused(project, told["runs"][0])
    assert "succeeded: there is nothing left" in refused(project, went_on["run_id"])
    silent = project.run("--workflow", "workflows.silent", code=1)["run_id"]
    text = refused(project, silent)
    assert "had published nothing" in text and "mirage-run --config configs/a.yaml" in text
    assert "there is no run '20010101'" in refused(project, "20010101")


def test_of_a_chain_each_goes_on_from_the_last_of_each_name(project: Project) -> None:
    """Also: begun with a network here it needs no option; as a record of another machine it does."""
    first = project.run("--workflow", "workflows.chain", "--network", "bridge", code=1)
    assert [each["id"] for each in first["outputs"]] == ["file:part:v1", "file:part:v2", "report:said:v1"]
    second = resumed(project, first["run_id"], code=1)
    assert second["resume_of"]["artifacts"] == ["file:part:v2", "report:said:v1"]
    assert second["fences"] == ["network=bridge"]
    assert project.mirage("logs", second["run_id"]) == "given ['file:part:v2', 'report:said:v1'] []\n"
    (project.folder / ".mirage" / "runs" / second["run_id"] / "plan.json").unlink()
    said = refused(project, second["run_id"], code=10)
    assert "weaker fences" in said and "network=bridge" in said
    third = resumed(project, "latest", "--network", "bridge", code=1)
    assert third["resume_of"]["run"] == second["run_id"]
    assert third["resume_of"]["artifacts"] == ["report:said:v1", "file:part:v4"]
    assert project.asked("verify", third["run_id"])["verdict"] == "ok"
    before = project.asked("lineage", third["run_id"], "--up")
    assert {first["run_id"], second["run_id"]} <= {each["id"] for each in before["nodes"]}


def test_with_more_memory_and_another_timeout(project: Project) -> None:
    """Resources are no part of the computation: what a run died of can be given to it."""
    made = project.run("--workflow", "workflows.hungry", code=1, config="configs/small.yaml")
    assert made["reason"] == "out of memory"
    assert any(f"mirage-run --resume {made['run_id']}" in hint for hint in made["hints"])
    more = resumed(project, made["run_id"], "--set", "mirage.run.memory=600m", "--timeout", "5m")
    assert (more["status"], more["fences"]) == ("succeeded", ["memory=600.0 MiB"])
    assert internal(project, more["run_id"])["timeout"] == 300
    assert internal(project, more["run_id"])["imageKey"] == internal(project, made["run_id"])["imageKey"]


def test_a_run_that_goes_on_is_left_alone(project: Project) -> None:
    process = begun(project, "slow", "saved")
    run_id = project.run_ids()[-1]
    try:
        for text in (run_id, "latest"):
            said = refused(project, text)
            assert f"{run_id} is still going" in said and f"mirage cancel {run_id}" in said
        newer = project.run("--workflow", "workflows.chain", code=1)["run_id"]
        assert resumed(project, "latest", code=1)["resume_of"]["run"] == newer, "the newest of all"
        os.killpg(process.pid, signal.SIGKILL)  # its container goes on
        process.communicate()
        assert "still going" in refused(project, run_id)
        project.mirage("cancel", run_id)
        assert resumed(project, run_id, "--timeout", "1s", code=1)["reason"] == "timeout"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert project.containers() == []


@pytest.mark.parametrize(
    "words,said",
    [
        (("--config", "configs/a.yaml"), "--resume and --config do not go together"),
        (("--snapshot",), "--resume and --snapshot"),
        (("--set", "training.lr=1"), "which this would change"),
        (("--set", "mirage.run.seed=1"), "which this would change"),
        (("--network", "bridge"), "had the network none"),
        (("--", "more"), "--resume and arguments after --"),
    ],
)
def test_another_computation_is_refused(
    project: Project, died: str, words: tuple[str, ...], said: str
) -> None:
    assert said in refused(project, died, *words)


def test_detached(project: Project, died: str) -> None:
    run_id = project.mirage("--resume", died, "--detach", program="mirage-run").strip()
    assert project.asked("wait", run_id)["status"] == "succeeded"
    assert project.asked("show", run_id)["resume_of"] == died
