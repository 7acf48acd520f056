"""The digits example made again on another engine, with an empty cache and no network: image and outputs bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import docker
import pytest

from scripts import engines
from tests.run_tools import BIN, GIT, Project, git

pytestmark = pytest.mark.stress
EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "digits"


@pytest.mark.timeout(1800)
def test_the_digits_are_identical_on_another_engine_from_the_store_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Project.__new__(Project)
    here.root = here.folder = tmp_path / "digits"
    shutil.copytree(EXAMPLE, here.folder, ignore=shutil.ignore_patterns("cache", "runs", "open", "artifacts"))
    git(here.root, "init", "-q", "-b", "main")
    here.commit()
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "demo.sh"], cwd=here.folder, check=True, env={**os.environ, **GIT, "PATH": path})
    runs = here.asked("ls")["runs"]
    assert len(runs) == 3
    digests = {run["run_id"]: run["image"] for run in runs}
    with engines.engine("containerd") as host:
        client = docker.APIClient(base_url=host)
        assert client.images() == []
        nothing = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        env = {**nothing, "DOCKER_HOST": host, "MIRAGE_CACHE": str(tmp_path / "empty")}
        for run_id, wanted in digests.items():
            again = json.loads(here.mirage("reproduce", run_id, "--json", env=env))
            assert again["image"] == {**again["image"], "wanted": wanted, "digest": wanted, "equal": True}
            verdicts = {each["name"]: each["verdict"] for each in [*again["outputs"], *again["metrics"]]}
            assert verdicts and set(verdicts.values()) == {"IDENTICAL"}
            with capsys.disabled():
                print(
                    f"\n{run_id}: {again['image']['origin']}, {wanted[:19]}, {len(verdicts)} IDENTICAL",
                    end="",
                )
        assert {each["verdict"] for each in here.asked("ls")["runs"] if each["run_id"] in digests} == {
            "IDENTICAL"
        }
        client.close()
