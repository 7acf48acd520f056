"""Images out of Mirage and back: layouts that other tools read, a registry with a login, the same digest everywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.registry_tools import Registry
from tests.run_tools import Project, engine

WORKFLOW = "from mirage import artifact\nartifact.File.save(b'seen', name='seen')\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("moving") / "repository", WORKFLOW)


@pytest.fixture(scope="module")
def run(project: Project) -> dict[str, Any]:
    """A run, whose image is to be moved."""
    return project.run()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    running = Registry(tmp_path / "registry", login="me:pass-word-1")
    yield running
    running.stop()


def login(folder: Path, registry: Registry) -> dict[str, str]:
    """Docker's own file of logins, as `docker login` writes it."""
    folder.mkdir()
    told = {"auth": base64.b64encode(b"me:pass-word-1").decode()}
    (folder / "config.json").write_text(json.dumps({"auths": {registry.address: told}}))
    return {"DOCKER_CONFIG": str(folder)}


def skopeo(place: str) -> str:
    """The digest by which skopeo knows an image."""
    done = subprocess.run(
        ["skopeo", "inspect", "--format", "{{.Digest}}", place], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_export_is_read_by_skopeo_and_by_the_engine(
    project: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    tar, folder = tmp_path / "image.tar", tmp_path / "layout"
    said = project.asked("image", "export", "latest", "-o", str(tar))
    project.mirage("image", "export", "--config", "configs/a.yaml", "-o", f"{folder}/")
    digest = run["image"]["digest"]
    assert said["digest"] == digest
    assert skopeo(f"oci-archive:{tar}") == skopeo(f"oci:{folder}") == digest
    copied = tmp_path / "copied"
    subprocess.run(
        ["skopeo", "copy", "-q", "--preserve-digests", f"oci-archive:{tar}", f"dir:{copied}"], check=True
    )
    assert "sha256:" + hashlib.sha256((copied / "manifest.json").read_bytes()).hexdigest() == digest
    with tarfile.open(tar) as packed:
        names = {name.removeprefix("./") for name in packed.getnames()}
    assert names == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    engine().remove_image(said["tag"], force=True)
    with tar.open("rb") as source:
        list(engine().load_image(source))
    assert engine().inspect_image(said["tag"])["Id"] == run["image"]["engine_id"]


def test_the_same_image_gives_the_same_tar_and_takes_the_place_of_an_older_one(
    project: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    target = tmp_path / "image.tar"
    target.write_bytes(b"older")
    project.mirage("image", "export", run["run_id"], "-o", str(target))
    first = hashlib.sha256(target.read_bytes()).digest()
    project.mirage("image", "export", run["run_id"], "-o", str(target))
    assert hashlib.sha256(target.read_bytes()).digest() == first
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]


def test_an_export_is_refused_where_it_would_mix_with_something_else(
    project: Project, run: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("kept")
    said = project.refused("image", "export", "latest", "-o", str(tmp_path), code=5, program="mirage")
    assert "is not empty" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    said = project.refused("image", "export", "-o", "x.tar", code=2, program="mirage")
    assert "expected a RUN or --config FILE" in said


def test_a_registry_has_what_was_pushed_under_the_same_digest_and_gives_it_back(
    project: Project, run: dict[str, Any], registry: Registry, tmp_path: Path
) -> None:
    digest, run_id = run["image"]["digest"], run["run_id"]
    place = f"{registry.address}/team/probe"
    said = project.refused("image", "push", run_id, f"{place}:v1", code=5, program="mirage")
    assert f"docker login {registry.address}" in said
    env = login(tmp_path / "docker", registry)
    said = json.loads(project.mirage("image", "push", run_id, f"{place}:v1", "--json", env=env))
    assert said == {"digest": digest, "reference": f"{place}@{digest}"}
    assert registry.digest("team/probe", "v1") == digest
    again = project.mirage("image", "push", run_id, place, env=env)
    assert again == f"{place}@{digest}\n"
    assert registry.digest("team/probe", digest.removeprefix("sha256:")[:24]) == digest

    # Another machine: without the image in its engine, without a cache, and a store that lost the layers.
    lost = []
    for layer in engine().inspect_image(run["image"]["engine_id"])["RootFS"]["Layers"]:
        name = layer.removeprefix("sha256:")
        path = project.store / "blobs" / "sha256" / name[:2] / name
        path.rename(tmp_path / name)
        lost.append((path, tmp_path / name))
    env["MIRAGE_CACHE"] = str(tmp_path / "cache")
    tag = f"mirage/run:{digest.removeprefix('sha256:')[:24]}"
    engine().remove_image(tag, force=True)
    try:
        found = json.loads(project.mirage("verify", run_id, "--json", env=env))
        told = {item["check"]: item["text"] for item in found["findings"]}
        assert f"in {place}" in told["image"]
        made = json.loads(project.mirage("reproduce", run_id, "--json", env=env))
        assert made["image"] == {"wanted": digest, "digest": digest, "origin": "registry", "equal": True}
        assert made["verdict"] == "IDENTICAL"
        shutil.rmtree(tmp_path / "cache")
        engine().remove_image(tag, force=True)
        registry.stop()
        said = project.mirage("verify", run_id, "--json", env=env, code=10)
        missing = [item for item in json.loads(said)["findings"] if item["check"] == "image.layer"]
        assert len(missing) == len(lost)
    finally:
        for path, kept in lost:
            if not path.exists():
                shutil.move(kept, path)


def test_a_registry_that_is_not_there_is_told(project: Project, run: dict[str, Any]) -> None:
    said = project.refused("image", "push", "latest", "127.0.0.1:9/x", code=5, program="mirage")
    assert "the registry 127.0.0.1:9 does not answer" in said
