"""Sixteen publishers of one version and four readers, MIRAGE_STRESS_RACES rounds (200); eight builders of one key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import Counted, how_many
from tests.race_tools import BUILDS, RACES, builds, races
from tests.run_tools import Project

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]


def test_races(tmp_path: Path, counted: Counted) -> None:
    rounds = how_many("races", 200)
    races(tmp_path / "store", counted(RACES), publishers=16, rounds=rounds, readers=4)


def test_builds(tmp_path: Path, counted: Counted) -> None:
    project = Project(tmp_path / "repository", "print(1)\n")
    builds(project, counted(BUILDS), builders=8, rounds=how_many("builds", 100))
