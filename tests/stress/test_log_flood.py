"""5 GB of output at full speed: memory and disk stay bounded, and the count of what fell out is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run_tools import Project
from tests.test_run_log import FLOOD, flood


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_a_flood_of_5_gb(tmp_path: Path) -> None:
    mib = 5 << 10
    project = Project(tmp_path, files={"workflows/flood.py": FLOOD.format(mib=mib)})
    flood(project, mib)
