"""Fixtures for every test."""

from __future__ import annotations

import os

import pytest

from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose

# A developer's own key signs nothing here; a test that wants a key names one.
os.environ["MIRAGE_SIGN_KEY"] = "none"


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    """This machine's engine."""
    return DockerEngine(choose(os.environ))
