"""Fixtures for every test."""

from __future__ import annotations

import os

import pytest

from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    """This machine's engine."""
    return DockerEngine(choose(os.environ))
