"""An image for another processor than this machine's: made, and run, under emulation."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import engines, packages
from tests.base_tools import own_base
from tests.image_tools import engine
from tests.run_tools import Project, git

BINFMT = Path("/proc/sys/fs/binfmt_misc")
NAME = "mirage-test-aarch64"
# an ELF file of 64 bits, little end first, for the machine 183 (elf.h, EM_AARCH64); F: opened now, by this root
MAGIC = (
    rb"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
    rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
)
LOCK = """markupsafe==3.0.2 \\
    --hash=sha256:{amd64} \\
    --hash=sha256:{arm64}
"""
# PyPI's files of MarkupSafe 3.0.2 for CPython 3.11 on Linux
HASHES = {
    "amd64": "a123e330ef0853c6e822384873bef7507557d8e4a082961e1defa947aa59ba84",
    "arm64": "2cb8438c3cbb25e220c2ab33bb226559e7afb3baec11c4f218ffa7308603c832",
}
WORKFLOW = (
    "import platform, markupsafe._speedups\nfrom mirage import artifact\n"
    "told = f'{platform.machine()} {markupsafe._speedups.__file__}'\n"
    "artifact.File.save(told.encode(), name='seen')\n"
)


@pytest.fixture
def emulated() -> Iterator[None]:
    """The kernel runs programs for arm64, for the time of a test."""
    assert platform.machine() == "x86_64", "this test is for a machine of the other kind"
    packages.ensure(["arch-test", "qemu-user-static"])
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    known = any("aarch64" in path.name for path in BINFMT.iterdir())
    if not known:
        line = b":%s:M::%s:%s:/usr/bin/qemu-aarch64-static:F" % (NAME.encode(), *MAGIC)
        (BINFMT / "register").write_bytes(line)
    yield
    if not known:
        (BINFMT / NAME).write_text("-1")


@pytest.mark.stress
def test_an_image_for_arm64_has_its_wheels_and_runs(emulated: None, tmp_path: Path) -> None:
    files = {
        "requirements.txt": LOCK.format(**HASHES),
        ".mirage/project.yaml": "project: probe\nworkflow: workflows.main\nplatform: linux/arm64\n",
    }
    project = Project(tmp_path / "p", WORKFLOW, files=files)
    made = project.run()
    record = project.record(made["run_id"])
    (tree,) = [item for item in made["outputs"] if item["id"].startswith("file:seen:")]
    assert tree["size"] > 0
    kept = (path.read_bytes() for path in (project.store / "blobs").rglob("*") if path.is_file())
    assert any(data.startswith(b"aarch64 /opt/venv/") and b"aarch64-linux-gnu" in data for data in kept)
    assert "linux/arm64" in str(record)
    image = engine().image(f"mirage/run:{made['image']['digest'][7:31]}")
    assert image is not None
    assert image.architecture == "arm64"
    # the same commit for this machine's own platform is another image, of another key
    project.write(".mirage/project.yaml", files[".mirage/project.yaml"].replace("arm64", "amd64"))
    git(project.root, "commit", "-qam", "Here")
    own = project.run()
    assert own["image"]["key"] != made["image"]["key"]
    assert own["outputs"][0]["digest"] != made["outputs"][0]["digest"]


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["containerd", "podman"])
def test_it_is_the_same_image_on_another_engine(emulated: None, tmp_path: Path, kind: str) -> None:
    settings = "project: probe\nworkflow: workflows.main\nplatform: linux/arm64\nbuild: {network: host}\n"
    files = {"requirements.txt": LOCK.format(**HASHES), ".mirage/project.yaml": settings}

    def built(name: str, host: str) -> dict[str, object]:
        """The same commit, with the base alone in its store and nothing in its cache."""
        project = Project(tmp_path / name / "p", WORKFLOW, files=files)
        own_base(project.store, project.folder, "linux/arm64")
        project.commit()
        env = {"MIRAGE_CACHE": str(tmp_path / name / "cache"), **({"DOCKER_HOST": host} if host else {})}
        words = ("image", "build", "--config", "configs/a.yaml", "--json")
        told: dict[str, object] = json.loads(project.mirage(*words, env=env))
        return told

    here = built("here", "")
    with engines.engine(kind) as host:
        there = built("there", host)
    assert (there["digest"], there["layers"]) == (here["digest"], here["layers"])
    assert there["engine_id"] == (there["digest"] if kind == "containerd" else there["config_digest"])
    engine().remove_image(f"mirage/run:{str(here['digest'])[7:31]}")
