"""Ctrl-C once, twice and three times after every line of a run's journal, on the real engine."""

from __future__ import annotations

import pytest

from tests.figures import Counted
from tests.run_tools import Project
from tests.test_detached import CTRL_C, ctrl_c, project

__all__ = ["project"]


@pytest.mark.stress
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("event", ["begun", "create", "start", "collect", "record"])
def test_ctrl_c_at_each_line_of_the_journal(
    project: Project, event: str, times: int, counted: Counted
) -> None:
    ctrl_c(project, event, times, counted(CTRL_C))
