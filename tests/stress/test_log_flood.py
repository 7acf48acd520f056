"""A flood of MIRAGE_STRESS_FLOOD_MIB (5 GiB): memory and disk stay bounded, and what fell out is counted exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import Counted, how_many
from tests.run_tools import Project
from tests.test_run_log import FLOOD, FLOODS, flood


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_a_flood_of_5_gb(tmp_path: Path, counted: Counted) -> None:
    mib = how_many("flood_mib", 5 << 10)
    project = Project(tmp_path, files={"workflows/flood.py": FLOOD.format(mib=mib)})
    flood(project, mib, counted(FLOODS))
