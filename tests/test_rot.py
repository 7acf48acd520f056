"""`mirage doctor --rot`: what past runs would need besides the store, as things get lost one after the other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.image_tools import SIX
from tests.run_tools import Project

WORKFLOW = "import six\nfrom mirage import artifact\nprint(artifact.load('dataset:mine:v1').path)\n"


def blob(project: Project, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return project.store / "blobs" / "sha256" / name[:2] / name


def test_what_is_lost_is_named_run_by_run(tmp_path: Path) -> None:
    settings = "project: probe\nworkflow: workflows.main\n"
    files = {
        "requirements.txt": SIX.decode(),
        ".mirage/project.yaml": settings,
        "configs/b.yaml": "data: 'dataset:mine:v1'\n",
    }
    project = Project(tmp_path / "repository", WORKFLOW, files=files)
    (tmp_path / "data.txt").write_text("data")
    project.mirage("artifact", "add", str(tmp_path / "data.txt"), "--as", "dataset:mine")
    made = project.run(config="configs/b.yaml")
    layers = project.asked("image", "build", "--config", "configs/b.yaml")["layers"]
    env = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}

    def rot(code: int, env: dict[str, str] | None = None) -> dict[str, Any]:
        (found,) = json.loads(project.mirage("doctor", "--rot", "--json", code=code, env=env))["runs"]
        return dict(found)

    whole = {"run_id": made["run_id"], "state": "whole", "image": "store", "needs": []}
    assert rot(0) == whole
    by_name = {layer["of"].removeprefix("mirage ").partition(":")[0]: layer["digest"] for layer in layers}
    blob(project, by_name["code"]).unlink()
    assert rot(10)["image"] == "engine"
    commit = f"the commit {made['commit'][:12]}, which is in this repository"
    found = rot(10, env)
    assert found == {**whole, "state": "outside", "image": "build", "needs": [commit]}
    blob(project, by_name["environment"]).unlink()
    needs = ["a package index, for what requirements.txt names", "an engine that installs it"]
    assert rot(10, env)["needs"] == [commit, *needs]
    blob(project, by_name["base"]).unlink()
    found = rot(10, env)
    assert found["needs"][1].startswith("the base python-3.11 (recipe:python-3.11@sha256:")
    assert found["needs"][2:] == needs
    lost = project.root / ".git" / "objects" / made["commit"][:2] / made["commit"][2:]
    lost.rename(tmp_path / "lost")
    needs = [f"the commit {made['commit']}, which is not in this repository"]
    assert rot(10, env) == {**whole, "state": "lost", "image": "nowhere", "needs": needs}
    assert rot(10)["image"] == "engine"


def test_a_run_whose_input_is_gone_is_lost(tmp_path: Path) -> None:
    files = {"configs/b.yaml": "data: 'dataset:mine:v1'\n"}
    workflow = "from mirage import artifact\nprint(artifact.load('dataset:mine:v1').path)\n"
    project = Project(tmp_path / "repository", workflow, files=files)
    (tmp_path / "data.txt").write_text("data")
    project.mirage("artifact", "add", str(tmp_path / "data.txt"), "--as", "dataset:mine")
    project.run(config="configs/b.yaml")
    blob(project, "sha256:" + hashlib.sha256(b"data").hexdigest()).unlink()
    out = project.mirage("doctor", "--rot", code=10)
    assert out.startswith("lost ")
    assert "needs the input dataset:mine:v1: its file data.txt" in out
