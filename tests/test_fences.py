"""Each fence can be loosened by its own key only, is shown where it was, and recorded as it was in effect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import Project, engine

LOOSE = {
    "network": ("bridge", "bridge"),
    "pids": ("77", "77"),
    "memory": ("300m", "300.0 MiB"),
    "cpus": ("1.5", "1.5"),
    "shm_size": ("2g", "2.0 GiB"),
    "runtime": ("runc", "runc"),
    "audit": ("false", "false"),
}
SECURITY = Path(__file__).parent.parent / "docs" / "security.md"
PROBE = """
import json, os
from mirage import artifact
PIDS = ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max")
artifact.File.save({
    "pids": next(open(p).read().strip() for p in PIDS if os.path.exists(p)),
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "audit": os.path.exists("/mirage/out/audit.jsonl"),
    "interfaces": sorted(os.listdir("/sys/class/net")),
}, name="seen")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    words = ", ".join(f"{key}: {value}" for key, (value, _) in LOOSE.items())
    files = {
        "configs/loose.yaml": f"a: 1\nmirage: {{run: {{{words}}}}}\n",
        "configs/nobody.yaml": "a: 1\nmirage: {run: {runtime: nobody-has-this}}\n",
    }
    yield Project(tmp_path_factory.mktemp("fences"), PROBE, files=files)


@pytest.fixture(scope="module")
def loose(project: Project) -> dict[str, Any]:
    return project.run(config="configs/loose.yaml")


def test_what_is_loosened_is_in_effect_shown_and_recorded(project: Project, loose: dict[str, Any]) -> None:
    expected = {f"{key}={shown}" for key, (_, shown) in LOOSE.items()}
    assert set(loose["fences"]) == expected
    shown = project.mirage("show", loose["run_id"])
    [line] = [line for line in shown.splitlines() if line.strip().startswith("fences")]
    assert set(line.strip().removeprefix("fences").strip().split(", ")) == expected
    internal = project.record(loose["run_id"])["predicate"]["buildDefinition"]["internalParameters"]
    sandbox = internal["sandbox"]
    assert (sandbox["network"], sandbox["pids"], sandbox["memory"]) == ("bridge", 77, 300 << 20)
    assert (sandbox["cpus"], sandbox["shm"], sandbox["runtime"]) == (1.5, 2 << 30, "runc")
    assert internal["determinism"]["MIRAGE_AUDIT"] == "0"
    files = project.asked("artifact", "show", loose["outputs"][0]["id"])["tree"]
    seen = json.loads(project.blob(files[0]["d"]))
    assert seen["pids"] == "77"
    assert seen["shm"] == 2 << 30
    assert seen["audit"] is False
    assert "eth0" in seen["interfaces"]
    project.mirage("verify", loose["run_id"])


def test_by_default_nothing_is_loose_and_nothing_is_said(project: Project) -> None:
    out = project.mirage("--config", "configs/a.yaml", program="mirage-run")
    assert "fences" not in out
    shown = project.asked("show", "latest")
    assert "as by default" in project.mirage("show", shown["run_id"])
    sandbox = shown["statement"]["predicate"]["buildDefinition"]["internalParameters"]["sandbox"]
    assert (sandbox["network"], sandbox["pids"], sandbox["runtime"]) == ("none", 4096, None)


def test_the_end_of_a_run_tells_it_to_people(project: Project) -> None:
    out = project.mirage("--config", "configs/a.yaml", "--network", "bridge", program="mirage-run")
    assert "  fences network=bridge\n" in out


def test_a_runtime_that_the_engine_does_not_have_is_refused_by_its_name(project: Project) -> None:
    error = project.refused("--config", "configs/nobody.yaml", code=8)
    assert "nobody-has-this" in error
    sealed = project.asked("show", "latest")
    assert sealed["status"] == "failed"
    internal = sealed["statement"]["predicate"]["buildDefinition"]["internalParameters"]
    assert internal["sandbox"]["runtime"] == "nobody-has-this"
    assert project.containers() == []
    assert "runc" in engine().info()["Runtimes"]


def test_the_page_names_every_key_that_loosens() -> None:
    table = SECURITY.read_text().partition("## Loosening, by name")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `run\.(\w+)`", table, re.MULTILINE))
    assert named == {*LOOSE, "gpus"}
