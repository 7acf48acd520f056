"""An engine with userns-remap, as it tells of itself; stress/test_remapped_run.py runs something on it."""

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


@pytest.fixture(scope="module")
def remapped() -> Iterator[SecondEngine]:
    # The root of its containers, who is nobody outside, has to reach its data.
    folder = Path(tempfile.mkdtemp(prefix="mirage-remapped-", dir="/var/tmp"))
    folder.chmod(0o711)
    with SecondEngine(folder, remapped=True) as engine:
        yield engine
    shutil.rmtree(folder, ignore_errors=True)


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
