"""Another OCI runtime than the engine's own: a run is given to the one that `run.runtime` names, and recorded so."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.engine_tools import REMAPPED, SecondEngine
from tests.run_tools import Project
from tests.stress.test_remapped_run import VALUE, WORK


@pytest.mark.stress
def test_a_run_is_given_to_the_runtime_that_is_named(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mirage-remapped-", dir="/var/tmp"))
    folder.chmod(0o711)
    # crun is another make of what runc is, in C; that it is it who runs, its own program tells
    witness = folder / "witness"
    witness.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\nexec crun "$@"\n')
    witness.chmod(0o755)
    config = "mirage: {run: {secrets: [API_KEY], runtime: crun}}\n"
    project = Project(tmp_path / "repository", WORK, files={"configs/a.yaml": config})
    project.mirage("image", "build", "--config", "configs/a.yaml")
    with SecondEngine(folder, remapped=True, runtimes=[("crun", witness)]) as engine:
        made = project.run(env={**engine.env, "API_KEY": VALUE})
        asked = (folder / "asked").read_text()
    shutil.rmtree(folder, ignore_errors=True)
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    assert str(REMAPPED).encode() in project.blob(shown["tree"][0]["d"])
    definition = project.record(made["run_id"])["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["sandbox"]["runtime"] == "crun"
    assert any("crun" in str(fence) for fence in made["fences"])
    assert "create" in asked and VALUE not in asked
