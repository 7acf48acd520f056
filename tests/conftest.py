"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from tests import s3_tools
from tests.figures import Table, counted
from tests.helper_tools import started

__all__ = ["counted", "started"]

# A developer's own key signs nothing here; a test that wants a key names one.
os.environ["MIRAGE_SIGN_KEY"] = "none"


def pytest_configure(config: pytest.Config) -> None:
    """The table of faults, where there is a terminal to print it on: not in a worker of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(os.environ.get("MIRAGE_STRESS_TABLE")), "mirage-faults")


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    """This machine's engine."""
    return DockerEngine(choose(os.environ))


def _server(make: str, factory: pytest.TempPathFactory) -> Iterator[s3_tools.Server]:
    folder = factory.mktemp(make)
    with getattr(s3_tools, make)(folder) as server:
        yield server
    s3_tools.removed(folder)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_tools.Server]:
    """SeaweedFS, started once."""
    yield from _server("seaweedfs", tmp_path_factory)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_tools.Server]:
    """Ceph's object gateway, started once."""
    yield from _server("ceph", tmp_path_factory)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_tools.Server]:
    """rclone's gateway, started once."""
    yield from _server("rclone", tmp_path_factory)
