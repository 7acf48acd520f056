"""Bad input: a typed error that says what happened and what to do, its exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.run_tools import BIN, Project, git


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "repository", "print('ran')\n")


def run(project: Project, *words: str, code: int, env: dict[str, str] | None = None) -> str:
    """`mirage-run` refused: stderr, and no run was begun."""
    out, err, got = project.ended(project.start(*words, env=env))
    assert got == code, f"exit code {got}, expected {code}\n{err}\n{out}"
    assert "Traceback" not in err
    assert err.startswith(("error: ", "Error: ", "Usage: ", "==> ", "warning: ")), err
    assert not (project.folder / ".mirage" / "runs").exists()
    return err


def test_no_repository(tmp_path: Path) -> None:
    subprocess.run([str(BIN / "mirage"), "init", str(tmp_path / "new")], check=True, capture_output=True)
    done = subprocess.run(
        [str(BIN / "mirage-run"), "--config", "configs/experiment_001.yaml"],
        cwd=tmp_path / "new",
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "not in a git repository" in done.stderr
    assert "git init" in done.stderr


def test_no_commit(tmp_path: Path) -> None:
    subprocess.run([str(BIN / "mirage"), "init", str(tmp_path)], check=True, capture_output=True)
    git(tmp_path, "init", "-q")
    done = subprocess.run(
        [str(BIN / "mirage-run"), "--config", "configs/experiment_001.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "no commit yet" in done.stderr


def test_no_project(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n")
    done = subprocess.run(
        [str(BIN / "mirage-run"), "--config", "a.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "mirage init" in done.stderr


def test_dirty_tree(project: Project) -> None:
    project.write("src/new.py", "")
    project.write("workflows/main.py", "changed\n")
    error = run(project, "--config", "configs/a.yaml", code=3)
    assert "'src/new.py'" in error and "'workflows/main.py'" in error
    assert "--snapshot" in error
    assert (project.folder / "workflows/main.py").read_text() == "changed\n"


def test_config_that_does_not_exist(project: Project) -> None:
    assert "configs/a.yaml" in run(project, "--config", "configs/aa.yaml", code=2)


def test_config_that_is_not_committed(project: Project) -> None:
    with (project.root / ".git" / "info" / "exclude").open("a") as ignored:
        ignored.write("mine.yaml\n")
    project.write("configs/mine.yaml", "a: 1\n")
    error = run(project, "--config", "configs/mine.yaml", code=2)
    assert "not part of the commit" in error and "git add -f" in error


def test_unknown_key_of_project_yaml(project: Project) -> None:
    project.write(".mirage/project.yaml", "project: probe\nworkflo: workflows.main\n")
    project.commit()
    error = run(project, "--config", "configs/a.yaml", code=2)
    assert ".mirage/project.yaml:2" in error and "'workflow'" in error


def test_unknown_key_in_the_configs_own_block(project: Project) -> None:
    project.write("configs/a.yaml", "a: 1\nmirage:\n  run: {memroy: 1g}\n")
    project.commit()
    error = run(project, "--config", "configs/a.yaml", code=2)
    assert "configs/a.yaml:3" in error and "'memory'" in error


def test_invalid_yaml(project: Project) -> None:
    project.write("configs/a.yaml", "a: 1\nb: [1, 2\nc: 3\n")
    project.commit()
    assert "configs/a.yaml:" in run(project, "--config", "configs/a.yaml", code=2)


def test_override_of_a_key_that_is_not_there(project: Project) -> None:
    error = run(project, "--config", "configs/a.yaml", "--set", "training.rl=1", code=2)
    assert "training.lr" in error and "+training.rl" in error


def test_unknown_artifact(project: Project) -> None:
    (project.root / "data.csv").write_text("1\n")
    project.mirage("artifact", "add", "data.csv", "--as", "dataset:processed_data")
    (project.root / "data.csv").unlink()
    project.write("configs/a.yaml", 'data: "dataset:procesed_data:v1"\n')
    project.commit()
    error = run(project, "--config", "configs/a.yaml", code=6)
    assert "dataset:procesed_data:v1" in error and "dataset:processed_data:v1" in error


def test_malformed_artifact_id(project: Project) -> None:
    project.write("configs/a.yaml", 'a: 1\ndata: "dataset:UPPER:v1"\n')
    project.commit()
    assert "configs/a.yaml:2" in run(project, "--config", "configs/a.yaml", code=6)


def test_unpinned_requirement(project: Project) -> None:
    project.write("requirements.txt", "numpy==2.4.6\npandas>=2\n\nscipy\n")
    project.commit()
    error = run(project, "--config", "configs/a.yaml", code=4)
    assert "requirements.txt:2" in error and "requirements.txt:4" in error
    assert "pip freeze" in error


def test_no_lock_and_two_locks(project: Project) -> None:
    project.write("uv.lock", "version = 1\n")
    project.commit()
    error = run(project, "--config", "configs/a.yaml", code=4)
    assert "requirements.txt" in error and "uv.lock" in error
    for name in ("uv.lock", "requirements.txt"):
        (project.folder / name).unlink()
    project.commit()
    assert "no lock file" in run(project, "--config", "configs/a.yaml", code=4)


def test_package_that_does_not_exist(project: Project) -> None:
    project.write("requirements.txt", "six==999.0\n")
    project.commit()
    error = run(project, "--config", "configs/a.yaml", code=4)
    assert "six" in error and "999" in error


def test_missing_workflow_module(project: Project) -> None:
    error = run(project, "--config", "configs/a.yaml", "--workflow", "workflows.mian", code=2)
    assert "workflows/mian.py" in error and "'workflows.main'" in error


def test_no_engine(project: Project, tmp_path: Path) -> None:
    error = run(
        project, "--config", "configs/a.yaml", code=8, env={"DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
    )
    assert "nothing.sock" in error and "DOCKER_HOST" in error


def test_moving_base_name(project: Project) -> None:
    project.write(
        ".mirage/project.yaml", "project: probe\nworkflow: workflows.main\nbase: python:3.12-slim\n"
    )
    project.commit()
    assert "mirage base pin python:3.12-slim" in run(project, "--config", "configs/a.yaml", code=2)


def test_unknown_base(project: Project) -> None:
    project.write(".mirage/project.yaml", "project: probe\nworkflow: workflows.main\nbase: pyton-3.11\n")
    project.commit()
    assert "python-3.11" in run(project, "--config", "configs/a.yaml", code=2)


def test_store_of_another_format(project: Project) -> None:
    project.write(".mirage/artifacts/store.json", '{"format":"mirage-store/99"}')
    error = run(project, "--config", "configs/a.yaml", code=7)
    assert "another format" in error


def test_a_full_disk_of_the_store_loses_nothing(project: Project, tmp_path: Path) -> None:
    """A real full disk: the save waits for room, and the run goes on when there is some."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", str(disk)], check=True)
    try:
        project.write(
            ".mirage/project.yaml", f"project: probe\nworkflow: workflows.main\nstore: {disk}/store\n"
        )
        project.write(
            "workflows/main.py",
            "from mirage import artifact\nartifact.File.save(bytes(range(256)) * (8 << 12), name='large')\n",
        )
        project.commit()
        project.asked("image", "build", "--config", "configs/a.yaml")
        space = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - (2 << 20)))
        process = project.start("--config", "configs/a.yaml", "--json")
        project.wait_for_event("start")
        time.sleep(1)
        assert process.poll() is None, process.communicate()
        (disk / "filler").unlink()
        out, err, code = project.ended(process, 60)
        assert code == 0, err
        assert "No space left on device" in err
        assert "Traceback" not in err
        assert [output["id"] for output in json.loads(out)["outputs"]] == ["file:large:v1"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("words", [(), ("--config",), ("--config", "configs/a.yaml", "--netwrok", "none")])
def test_usage(project: Project, words: tuple[str, ...]) -> None:
    run(project, *words, code=2)
