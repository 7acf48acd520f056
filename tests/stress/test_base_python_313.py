"""The base with Debian 13's Python 3.13: the same twice, and a run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run_tools import Project

WORKFLOW = "import sys\nprint(sys.version)\n"
SETTINGS = "project: probe\nworkflow: workflows.main\nbase: python-3.13\n"


@pytest.mark.stress
def test_a_run_on_python_313_from_a_base_that_is_the_same_twice(tmp_path: Path) -> None:
    project = Project(tmp_path / "repository", WORKFLOW, files={".mirage/project.yaml": SETTINGS})
    first = project.asked("base", "build")
    second = project.asked("base", "build", "--fresh")
    assert first["digest"] == second["digest"]
    made = project.run()
    record = project.record(made["run_id"])
    assert record["predicate"]["buildDefinition"]["internalParameters"]["python"].startswith("3.13.")
    assert project.mirage("logs", "latest").startswith("3.13.")
    assert made["base"] == {"name": "python-3.13", "digest": first["digest"]}
