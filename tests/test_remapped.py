"""An engine with userns-remap: the run's user is one of the engine's range, and owns its outbox."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifacts.inputs import InputCache
from orchestrator.errors import EngineError
from orchestrator.executors import docker_json
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from orchestrator.executors.local_docker import UNPRIVILEGED, LocalDocker
from orchestrator.store.folder import FolderStore
from tests.engine_tools import REMAPPED, SecondEngine
from tests.image_tools import Notes
from tests.run_tools import Project

WORK = """
import os
from mirage import artifact, secret
map = open("/proc/self/uid_map").read().split()
artifact.Report.save({"uid": os.getuid(), "map": map, "secret": len(secret("API_KEY"))}, name="seen")
"""
VALUE = "sk-of-a-remapped-run-4711"


@pytest.fixture(scope="module")
def remapped() -> Iterator[SecondEngine]:
    # The root of its containers, who is nobody outside, has to reach its data.
    folder = Path(tempfile.mkdtemp(prefix="mirage-remapped-", dir="/var/tmp"))
    folder.chmod(0o711)
    with SecondEngine(folder, remapped=True) as engine:
        yield engine
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_owns_its_outbox(tmp_path: Path, remapped: SecondEngine) -> None:
    project = Project(
        tmp_path / "repository", WORK, files={"configs/a.yaml": "mirage: {run: {secrets: [API_KEY]}}\n"}
    )
    project.mirage("image", "build", "--config", "configs/a.yaml")  # the other engine has no network
    made = project.run(env={**remapped.env, "API_KEY": VALUE})
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    seen = project.blob(shown["tree"][0]["d"])
    assert b'"uid": 10001' in seen or b'"uid":10001' in seen
    assert str(REMAPPED).encode() in seen and str(len(VALUE)).encode() in seen
    definition = project.record(made["run_id"])["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["sandbox"]["user"] == f"{UNPRIVILEGED}:{UNPRIVILEGED}"
    assert remapped.api().containers(all=True) == []


def test_what_the_engine_says_of_its_users(tmp_path: Path, remapped: SecondEngine) -> None:
    engine = DockerEngine(choose(remapped.env))
    info = engine.info()
    assert info.userns and not info.rootless and info.userns_root == (REMAPPED, REMAPPED)
    executor = LocalDocker(
        engine, tmp_path, InputCache(FolderStore.open_at(tmp_path / "store"), tmp_path / "trees", Notes())
    )
    assert executor._user() == (UNPRIVILEGED, UNPRIVILEGED)
    unknown = docker_json.info_of(
        {}, {"SecurityOptions": ["name=userns"], "DockerRootDir": "/var/lib/docker"}, 0.0
    )
    assert unknown.userns and unknown.userns_root is None
    executor._engine = _Says(replace(info, userns_root=None))  # type: ignore[assignment]
    with pytest.raises(EngineError, match="userns-remap"):
        executor._user()
    executor._engine = _Says(replace(info, rootless=True))  # type: ignore[assignment]
    assert executor._user() == (0, 0)


class _Says:
    def __init__(self, info: object) -> None:
        self._info = info

    def info(self) -> object:
        return self._info
