"""Sixteen runs on two engines that save under the same names, MIRAGE_STRESS_RACES rounds (200), four readers beside them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from orchestrator.artifacts.version import versions
from orchestrator.reference import ArtifactRef
from orchestrator.store.folder import FolderStore
from tests.engine_tools import SecondEngine
from tests.figures import Counted, how_many
from tests.race_tools import RACES, judge, readers_beside
from tests.run_tools import PROJECT_YAML, Project, git

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]
RUNS = 16
PACE = 0.5  # seconds between two rounds, which begin everywhere at once: the containers have nothing else in common
WORKFLOW = """
import os, time
from mirage import artifact, config
from mirage.errors import ArtifactError

mine = os.urandom(16).hex()
for turn in range(config.rounds):
    time.sleep(max(0.0, config.begin + turn * config.pace - time.time()))
    try:
        artifact.Dataset.save({"mine": mine, "turn": turn}, name="raced", version=f"exp{turn:03}")
    except ArtifactError as error:
        if "exists already" not in str(error):
            raise
    artifact.Dataset.save({"mine": mine, "turn": turn}, name="counted")
"""


def test_sixteen_runs_on_two_engines(tmp_path: Path, counted: Counted) -> None:
    rounds, counts, root = how_many("races", 200), counted(RACES), tmp_path / "store"
    config = f"rounds: {rounds}\npace: {PACE}\nbegin: 0\n"
    here = Project(
        tmp_path / "here",
        WORKFLOW,
        files={
            ".mirage/project.yaml": PROJECT_YAML + f"store: {root}\n",
            "configs/a.yaml": config,
            "configs/image.yaml": "rounds: 0\npace: 0\nbegin: 0\n",
        },
    )
    here.run(config="configs/image.yaml")
    with SecondEngine(tmp_path / "engine") as engine:
        git(tmp_path, "clone", "-q", str(here.root), "there")
        there = Project.__new__(Project)
        there.root = there.folder = tmp_path / "there"
        env = {**engine.env, "MIRAGE_CACHE": str(tmp_path / "cache")}
        there.run(config="configs/image.yaml", env=env)  # the image comes from the store
        begin = f"begin={int(time.time()) + 20 + 3 * RUNS}"
        words = ("--config", "configs/a.yaml", "--set", begin, "--json")
        with readers_beside(root, 4, ("raced", "counted")) as torn:
            started = [
                (place, place.start(*words, env=own))
                for _ in range(RUNS // 2)
                for place, own in ((here, {}), (there, env))
            ]
            ends = [place.ended(process, 3000.0) for place, process in started]
    assert [code for _, _, code in ends] == [0] * RUNS, [err[-500:] for _, err, code in ends if code]
    saved = [each["id"] for out, _, _ in ends for each in json.loads(out)["outputs"]]
    assert all(each.startswith(("dataset:raced:exp", "dataset:counted:v")) for each in saved)
    for each in torn():
        counts.found("corrupt", each)
    newest = ArtifactRef("dataset", "counted", versions(FolderStore.open_at(root), "dataset", "counted")[-1])
    assert str(newest) in {f"dataset:counted:v{number}" for number in range(1, RUNS * rounds + 1)}
    judge(root, counts, [each.rpartition(":")[2] for each in saved], RUNS, rounds)
