"""Fixtures for every test."""

from __future__ import annotations

import os

import pytest

from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from tests.figures import Table, counted

__all__ = ["counted"]

# A developer's own key signs nothing here; a test that wants a key names one.
os.environ["MIRAGE_SIGN_KEY"] = "none"


def pytest_configure(config: pytest.Config) -> None:
    """The table of faults, where there is a terminal to print it on: not in a worker of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(), "mirage-faults")


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    """This machine's engine."""
    return DockerEngine(choose(os.environ))
