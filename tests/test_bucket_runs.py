"""Runs whose store is a bucket on a real server: shared by two machines, kept here while the server is away."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.base_tools import own_base
from tests.chaos import Chaos, chaos
from tests.image_tools import SIX
from tests.run_tools import Project, engine, git, wait_for
from tests.s3_tools import KEY, SECRET, Server, credentials, environment

DATA = """
from mirage import artifact, config

def digit(number, noise):
    return [(number * 7 + at * 3 + noise * (at % 5)) % 17 for at in range(64)]

rows = [[number, digit(number, noise)] for noise in range(config.data.noises) for number in range(10)]
artifact.Dataset.save({"rows": rows}, name="digits")
"""
TRAIN = """
from mirage import artifact, config, metrics

rows = config.artifact("data.train_dataset").load()["rows"]
centres = {}
for number in range(10):
    of = [pixels for label, pixels in rows if label == number]
    centres[str(number)] = [round(sum(each) / len(of), 6) for each in zip(*of)]

def guess(pixels):
    return min(centres, key=lambda c: sum((a - b) ** 2 for a, b in zip(pixels, centres[c])))

right = sum(guess(pixels) == str(label) for label, pixels in rows)
metrics.log(accuracy=right / len(rows))
name = config.experiment.name
artifact.Metrics.save({"accuracy": right / len(rows)}, name=name)
print(artifact.Model.save(centres, name=name, metadata={"trained_on": "digits"}).id)
"""
# Waits after its second epoch, unless it goes on from one.
LONG = """
import time
from mirage import artifact, metrics

before = artifact.Model.resumed("checkpoint")
state = {"epoch": 0, "weights": [1.0] * 2000} if before is None else before.load()
while state["epoch"] < 4:
    state = {"epoch": state["epoch"] + 1, "weights": [w * 1.5 for w in state["weights"]]}
    print(artifact.Model.save(state, name="checkpoint").id, flush=True)
    if state["epoch"] == 2 and before is None:
        time.sleep(120)
metrics.log(epoch=state["epoch"])
artifact.Model.save(state["weights"], name="long")
"""
FILES = {
    "requirements.txt": SIX.decode(),
    "configs/data.yaml": "mirage: {workflow: workflows.data}\ndata: {noises: 5}\n",
    "configs/a.yaml": 'experiment: {name: centroid}\ndata: {train_dataset: "dataset:digits:v1"}\n',
    "workflows/data.py": DATA,
    "workflows/long.py": LONG,
}
NOWHERE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def proxy(seaweedfs: Server) -> Iterator[Chaos]:
    with chaos(seaweedfs.endpoint, 0.0) as server:
        yield server


@pytest.fixture(scope="module")
def machine_a(seaweedfs: Server, proxy: Chaos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose store is a new bucket, on a machine with a home and a cache of its own."""
    top = tmp_path_factory.mktemp("a")
    settings = (
        f"project: digits\nworkflow: workflows.main\nstore: s3://{seaweedfs.new_bucket()}/team\n"
        f"s3: {{endpoint_url: '{proxy.endpoint}', region: us-east-1}}\nbuild: {{network: host}}\n"
        "trust: {environments: any}\n"
    )
    made = Project(top / "repository", TRAIN, files={**FILES, ".mirage/project.yaml": settings})
    own_base(top / "cache", made.folder)  # what building it takes is not what this is about
    made.commit()
    keys = credentials(proxy.endpoint)
    del keys["AWS_ENDPOINT_URL_S3"]  # project.yaml says it
    (top / "home").mkdir()
    with environment({**keys, "HOME": str(top / "home"), "MIRAGE_CACHE": str(top / "cache")}):
        yield made
    for folder in (made.folder, top):
        _without_credentials(folder)


def _without_credentials(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
            data = path.read_bytes()
            assert SECRET.encode() not in data and KEY.encode() not in data, path


@pytest.fixture(scope="module")
def run(machine_a: Project) -> dict[str, Any]:
    machine_a.run(config="configs/data.yaml")
    return machine_a.run()


def test_what_one_machine_ran_another_has_from_the_store_alone(
    machine_a: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    digest = run["image"]["digest"]
    engine().remove_image(f"mirage/run:{digest.removeprefix('sha256:')[:24]}", force=True)
    git(tmp_path, "clone", "-q", str(machine_a.root), "b")
    b = Project.__new__(Project)
    b.root = b.folder = tmp_path / "b"
    (tmp_path / "home").mkdir()
    with environment({**NOWHERE, "HOME": str(tmp_path / "home"), "MIRAGE_CACHE": str(tmp_path / "cache")}):
        assert run["run_id"] in b.mirage("ls")
        assert b.asked("show", run["run_id"])["run_id"] == run["run_id"]
        assert "centroid" in b.mirage("artifact", "ls")
        again = b.asked("reproduce", run["run_id"])
        assert again["image"] == {"wanted": digest, "digest": digest, "origin": "store", "equal": True}
        assert again["verdict"] == "IDENTICAL"
        assert b.mirage("verify", run["run_id"])
        copy = tmp_path / "model.json"
        b.mirage("artifact", "get", "model:centroid:latest", "-o", str(copy))
        assert json.loads(copy.read_text())["3"]
        added = b.asked("artifact", "add", str(copy), "--as", "model:by_hand")
        assert added["id"] == "model:by_hand:v1"
        second = b.run(code=0, config="configs/a.yaml")
        assert second["run_key"] == run["run_key"]
        assert second["outputs"] == run["outputs"], "equal content is the same version"
        said = b.mirage("doctor", code=0)
        assert "creates once by if-none-match" in said and "bodies checked by sha256" in said
        pulled = b.asked("artifact", "pull", "dataset:digits:v1")["artifacts"]
        assert [each["id"] for each in pulled] == ["dataset:digits:v1"]
        assert b.mirage("artifact", "push", "--pending") == "nothing waits on this machine\n"
    assert machine_a.asked("artifact", "show", "model:by_hand:v1")["digest"] == added["digest"]
    _without_credentials(tmp_path)


def test_a_run_whose_machine_died_goes_on_elsewhere_from_what_is_in_the_bucket(
    machine_a: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    """Its checkpoints, its record, its image: another machine, with another clone and no cache, has them all from there."""
    before = set(machine_a.run_ids())
    process = machine_a.start("--config", "configs/a.yaml", "--workflow", "workflows.long")

    def saved_twice() -> bool:
        assert process.poll() is None, process.communicate()
        lines = machine_a.journal(without=before)
        return len([line for line in lines if line["event"] == "published"]) == 2

    wait_for(saved_twice, 120)
    (run_id,) = set(machine_a.run_ids()) - before
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    engine().remove_container(f"mirage-{run_id}", force=True)
    git(tmp_path, "clone", "-q", str(machine_a.root), "b")
    b = Project.__new__(Project)
    b.root = b.folder = tmp_path / "b"
    (tmp_path / "home").mkdir()
    here = {**NOWHERE, "HOME": str(tmp_path / "home"), "MIRAGE_CACHE": str(tmp_path / "cache")}
    with environment(here):
        err = b.refused("--resume", run_id, code=2)
        assert "begun on another machine" in err and "mirage recover" in err
    (told,) = machine_a.asked("recover")["recovered"]
    assert (told["run_id"], told["status"]) == (run_id, "lost")
    digest = machine_a.asked("show", run_id)["image"]
    engine().remove_image(f"mirage/run:{digest.removeprefix('sha256:')[:24]}", force=True)
    with environment(here):
        out = b.mirage("--resume", run_id, "--json", program="mirage-run")
        made = json.loads(out)
        assert (made["status"], made["metrics"]) == ("succeeded", {"epoch": 4})
        assert made["resume_of"]["artifacts"] == ["model:checkpoint:v2"]
        assert made["image"]["digest"] == digest
        log = b.mirage("logs", made["run_id"])
        assert log == "model:checkpoint:v3\nmodel:checkpoint:v4\n"
        assert b.asked("verify", made["run_id"])["verdict"] == "ok"
    assert machine_a.asked("show", made["run_id"])["status"] == "succeeded", "the first machine sees it too"


def test_a_blob_that_the_bucket_lost_is_pushed_by_hand(
    machine_a: Project, run: dict[str, Any], seaweedfs: Server, tmp_path: Path
) -> None:
    (entry,) = (
        each for each in machine_a.asked("artifact", "show", "model:centroid:v1")["tree"] if each["t"] == "f"
    )
    name = entry["d"].removeprefix("sha256:")
    where = _store_of(machine_a).removeprefix("s3://").partition("/")
    key = f"{where[2]}/blobs/sha256/{name[:2]}/{name}"
    seaweedfs.client().delete_object(Bucket=where[0], Key=key)
    nothing = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    missing = machine_a.ended(
        machine_a.start("artifact", "push", "model:centroid:v1", program="mirage", env=nothing)
    )
    assert missing[2] == 7 and "neither in s3://" in missing[1]
    machine_a.mirage("artifact", "push", "model:centroid:v1")
    found = seaweedfs.client().get_object(Bucket=where[0], Key=key)["Body"].read()
    assert len(found) == entry["s"]


def test_a_run_whose_store_goes_away_keeps_everything_and_is_finished_later(
    machine_a: Project, run: dict[str, Any], proxy: Chaos, tmp_path: Path
) -> None:
    machine_a.write("configs/b.yaml", FILES["configs/a.yaml"].replace("centroid", "away"))
    machine_a.commit()

    def leave(handler: Any) -> None:
        """From the first output's pointer on, which is written, no request is answered."""
        if handler.command == "PUT" and "/refs/metrics/away/" in handler.path:
            proxy.faults, proxy.share = ("reset",), 1.0
            handler.server.canned = lambda _: None
            handler._reset()

    proxy.canned = leave
    try:
        process = machine_a.start("--config", "configs/b.yaml")
        out, err, code = machine_a.ended(process)
        assert code == 7, err + out
        assert "does not answer" in err and "succeeded, and what it saved" in err
        assert "mirage artifact push --pending" in err
        assert "model:away:unpublished-" in out + err, (
            "what the workflow hears says that there is no version yet"
        )
        copied = machine_a.mirage("artifact", "get", "dataset:digits:v1", "-o", str(tmp_path / "kept"))
        assert copied == f"{tmp_path}/kept\n", "what this machine knows can be had meanwhile"
    finally:
        proxy.share, proxy.canned = 0.0, lambda _: None
    assert "model:away" not in machine_a.mirage("artifact", "ls")
    done = machine_a.asked("artifact", "push", "--pending")
    assert len(done["runs"]) == 1 and done["left"] == []
    shown = machine_a.asked("show", done["runs"][0])
    assert shown["status"] == "succeeded"
    assert sorted(shown["outputs"]) == ["metrics:away:v1", "model:away:v1"]
    assert machine_a.containers() == []
    machine_a.mirage("verify", done["runs"][0])


def test_a_server_that_lies_is_refused_before_anything_runs(rclone: Server, tmp_path: Path) -> None:
    settings = (
        f"project: p\nworkflow: workflows.main\nstore: s3://{rclone.new_bucket()}/x\n"
        f"s3: {{endpoint_url: '{rclone.endpoint}', region: us-east-1}}\n"
    )
    project = Project(tmp_path / "p", "print(1)\n", files={".mirage/project.yaml": settings})
    with environment({**credentials(rclone.endpoint), "MIRAGE_CACHE": str(tmp_path / "cache")}):
        out, err, code = project.ended(project.start("doctor", program="mirage"))
        assert code == 7, out + err
        assert "ignores If-None-Match" in out + err
        assert "docs/store.md lists" in out + err


def _store_of(project: Project) -> str:
    text = (project.folder / ".mirage" / "project.yaml").read_text()
    return next(line.split(": ")[1] for line in text.splitlines() if line.startswith("store: "))


def test_everything_of_a_machine_can_be_had_again_without_its_cache(
    machine_a: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    """The cache is a cache: a machine that loses it loses nothing that a run had published."""
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    machine_a.mirage("artifact", "get", "model:centroid:v1", "-o", str(tmp_path / "m"), env=env)
    assert (tmp_path / "m").exists()
    shutil.rmtree(tmp_path / "cache")
    machine_a.mirage("show", run["run_id"], env=env)
