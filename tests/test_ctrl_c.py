"""A share of Ctrl-C in each phase of a run; the whole of it is tests/stress/test_ctrl_c_phases.py."""

from __future__ import annotations

import pytest

from tests.ctrl_c_tools import FIGURE, POINTS, WORKFLOW, interrupted
from tests.figures import Counted
from tests.run_tools import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("ctrl-c"), WORKFLOW)


@pytest.mark.parametrize(
    "phase,times", [("build", 2), ("fetch", 1), ("run", 2), ("collect", 3), ("tidying up", 1)]
)
def test_ctrl_c_in_a_phase(project: Project, phase: str, times: int, counted: Counted) -> None:
    interrupted(project, POINTS[phase], times, counted(FIGURE))
