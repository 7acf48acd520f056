"""The project that `mirage init` makes: what is written, and that its workflow works as it stands."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import ConfigError
from orchestrator.skeleton import write_skeleton
from tests.sdk_host import Host

FILES = (
    ".gitignore",
    ".mirage/project.yaml",
    "README.md",
    "configs/experiment_001.yaml",
    "configs/experiment_002.yaml",
    "requirements.txt",
    "scripts/run_experiment.sh",
    "src/__init__.py",
    "src/data_loader.py",
    "src/model.py",
    "src/train.py",
    "workflows/data_pipeline.py",
    "workflows/training_pipeline.py",
)


def test_the_skeleton_has_the_layout_of_a_project(tmp_path: Path) -> None:
    folder = tmp_path / "Awesome AI-Project"
    written = write_skeleton(folder, None)
    assert written == FILES
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert yaml.safe_load((folder / ".mirage/project.yaml").read_text())["project"] == "awesome_ai-project"
    assert (folder / "README.md").read_text().startswith("# awesome_ai-project\n")
    assert stat.S_IMODE((folder / "scripts/run_experiment.sh").stat().st_mode) & 0o111
    assert not any("__PROJECT__" in (folder / path).read_text() for path in written)


@pytest.mark.parametrize("name", ["Project", "a b", "", "a/b", "a\n"])
def test_a_name_outside_the_grammar_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name cannot be used"):
        write_skeleton(tmp_path / "x", name)
    assert not (tmp_path / "x").exists()


def test_existing_files_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "requirements.txt").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"README\.md, requirements\.txt\n"):
        write_skeleton(tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "requirements.txt"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_an_unwritable_place_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_skeleton(tmp_path / "file" / "below", "x")


def test_git_takes_the_project_file_and_leaves_what_runs_make(tmp_path: Path) -> None:
    write_skeleton(tmp_path, "x")
    for made in (
        ".mirage/runs/r/journal",
        ".mirage/artifacts/blob",
        ".mirage/cache/x",
        "src/__pycache__/a.pyc",
    ):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).write_text("")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    status = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert {line[3:] for line in status.stdout.splitlines()} == set(FILES)


def run_experiment(project: Path, mirage: Path, config: str, inputs: Host | None = None) -> Host:
    values: dict[str, Any] = yaml.safe_load((project / "configs" / config).read_text())
    host = Host(mirage, values)
    if inputs is not None:
        data = inputs.artifacts / "0" / "data.json"
        host.add_input("dataset:processed_training_data:v1", "data.json", data.read_bytes(), "json")
    with host:
        done = subprocess.run(
            [sys.executable, "-m", "workflows.training_pipeline", "--config", f"configs/{config}"],
            cwd=project,
            env=host.environment(),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return host


def test_the_first_experiment_makes_the_data_set_that_the_second_takes(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_skeleton(project)
    first = run_experiment(project, tmp_path / "one", "experiment_001.yaml")
    assert list(first.versions) == ["dataset:processed_training_data", "model:baseline"]
    second = run_experiment(project, tmp_path / "two", "experiment_002.yaml", inputs=first)
    assert list(second.versions) == ["model:baseline"]
    again = run_experiment(project, tmp_path / "again", "experiment_001.yaml")
    assert again.versions == first.versions  # bit for bit

    found = [host.lines("metrics.jsonl")[-1]["values"]["accuracy"] for host in (first, second)]
    assert found[0] != found[1]
    assert min(found) > 0.6  # three clouds: guessing gives a third
    model = json.loads((second.artifacts / "0" / "data.json").read_text())
    assert len(model["weights"]) == 3
    assert second.ready[0]["metadata"]["trained_on"] == "dataset:processed_training_data:v1"


def test_the_run_script_starts_the_config_that_it_is_given(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_skeleton(project)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "mirage-run").write_text('#!/bin/sh\necho "$PWD $*"\n')
    (binaries / "mirage-run").chmod(0o755)
    done = subprocess.run(
        [project / "scripts" / "run_experiment.sh", "configs/experiment_002.yaml"],
        cwd="/",
        env={"PATH": f"{binaries}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{project} --config configs/experiment_002.yaml\n"
