"""mirage-run killed at 24 points of a run, MIRAGE_STRESS_PHASES times each (25)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import Counted, how_many
from tests.test_run_phases import KILLED, killed_everywhere

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("round", range(how_many("phases", 25)))
def test_phases(tmp_path: Path, counted: Counted, round: int) -> None:
    killed_everywhere(tmp_path, counted(KILLED), 1)
