"""A run on an engine with userns-remap: its user is one of the engine's range, and owns its outbox.

Half a minute of it is the engine giving a base's files to other users.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.executors.local_docker import UNPRIVILEGED
from tests.engine_tools import REMAPPED, SecondEngine
from tests.run_tools import Project
from tests.test_remapped import remapped

__all__ = ["remapped"]

WORK = """
import os
from mirage import artifact, secret
map = open("/proc/self/uid_map").read().split()
artifact.Report.save({"uid": os.getuid(), "map": map, "secret": len(secret("API_KEY"))}, name="seen")
"""
VALUE = "sk-of-a-remapped-run-4711"


@pytest.mark.stress
def test_a_run_owns_its_outbox(tmp_path: Path, remapped: SecondEngine) -> None:
    project = Project(
        tmp_path / "repository", WORK, files={"configs/a.yaml": "mirage: {run: {secrets: [API_KEY]}}\n"}
    )
    project.mirage("image", "build", "--config", "configs/a.yaml")  # the other engine has no network
    made = project.run(env={**remapped.env, "API_KEY": VALUE})
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    seen = project.blob(shown["tree"][0]["d"])
    assert b'"uid": 10001' in seen or b'"uid":10001' in seen
    assert str(REMAPPED).encode() in seen and str(len(VALUE)).encode() in seen
    definition = project.record(made["run_id"])["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["sandbox"]["user"] == f"{UNPRIVILEGED}:{UNPRIVILEGED}"
    assert remapped.api().containers(all=True) == []
