"""Ctrl-C once, twice and three times in each phase of a run: build, fetch, start, run, collect, record, tidying up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ctrl_c_tools import FIGURE, POINTS, PUSHES, WORKFLOW, interrupted
from tests.figures import Counted
from tests.run_tools import Project
from tests.s3_tools import Server, credentials, environment
from tests.test_ctrl_c import project

__all__ = ["project"]


@pytest.mark.stress
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("phase", POINTS)
def test_ctrl_c_in_each_phase(project: Project, phase: str, times: int, counted: Counted) -> None:
    interrupted(project, POINTS[phase], times, counted(FIGURE))


@pytest.fixture(scope="module")
def in_bucket(seaweedfs: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    settings = (
        f"project: probe\nworkflow: workflows.main\nstore: s3://{seaweedfs.new_bucket()}/team\n"
        f"s3: {{endpoint_url: '{seaweedfs.endpoint}', region: us-east-1}}\n"
    )
    with environment(credentials(seaweedfs.endpoint)):
        yield Project(
            tmp_path_factory.mktemp("ctrl-c-push"), WORKFLOW, files={".mirage/project.yaml": settings}
        )


@pytest.mark.stress
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("phase", PUSHES)
def test_ctrl_c_in_a_push(in_bucket: Project, phase: str, times: int, counted: Counted) -> None:
    interrupted(in_bucket, PUSHES[phase], times, counted(FIGURE))
