"""What must hold on any other engine: the image of this machine's engine, bit for bit, and the same run on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import docker
import pytest

from scripts import engines
from scripts.packages import Missing
from tests.base_tools import own_base
from tests.image_tools import SIX, Index, engine
from tests.lock_tools import sdist
from tests.registry_tools import Registry
from tests.run_tools import Project

WORKFLOW = (
    "import six\nfrom mirage import artifact\nartifact.File.save(six.__version__.encode(), name='seen')\n"
)
SETTINGS = "project: probe\nworkflow: workflows.main\nbuild: {network: host}\n"


def project(folder: Path, lock: str) -> Project:
    """The same commit each time, with a store of its own in which the base is, and pinned."""
    files = {"requirements.txt": lock, ".mirage/project.yaml": SETTINGS}
    made = Project(folder / "repository", WORKFLOW, files=files)
    own_base(made.store, made.folder)
    made.commit()
    return made


def check(kind: str, folder: Path) -> None:
    """Builds and runs a project here and on another engine, and makes the first run again there: from its store alone,
    and where that lost the layers, from a registry.

    One of its packages is built from source, in a container without the shared cache.
    """
    with Index(sdist("rough")) as index:
        lock = f"rough==1.0 --hash={index.hash('rough')}\n{SIX.decode()}"
        _check(kind, folder, lock, {"UV_INDEX": index.url, "PIP_FIND_LINKS": ""})


def _empty(client: Any) -> None:
    """Take all images out of an engine."""
    for image in client.images():
        for tag in image["RepoTags"] or ():
            client.remove_image(tag, force=True)
    assert client.images() == []


def _by_a_registry(
    made: Project, run: dict[str, Any], client: Any, env: dict[str, str], folder: Path
) -> None:
    """The same again where the store has lost every layer, and a registry on the loopback has them."""
    digest = run["image"]["digest"]
    registry = Registry(folder / "registry")
    try:
        env = env | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        pushed = made.mirage("image", "push", run["run_id"], f"{registry.address}/probe", env=env)
        assert pushed == f"{registry.address}/probe@{digest}\n"
        _empty(client)
        shutil.rmtree(folder / "cache-empty")
        for layer in made.image_layers(run["run_id"]):
            (made.store / "blobs" / "sha256" / layer[:2] / layer).rename(folder / layer)
        again = json.loads(made.mirage("reproduce", run["run_id"], "--json", env=env))
        assert again["image"] == {"wanted": digest, "digest": digest, "origin": "registry", "equal": True}
        assert again["verdict"] == "IDENTICAL"
    finally:
        registry.stop()


def _back(made: Project, run: dict[str, Any], there: dict[str, str], folder: Path) -> None:
    """The other way: pushed from the other engine, and made again on this machine's from the registry alone."""
    digest = run["image"]["digest"]
    registry = Registry(folder / "registry-back")
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    try:
        pushed = made.mirage("image", "push", run["run_id"], f"{registry.address}/back", env=there | direct)
        assert pushed == f"{registry.address}/back@{digest}\n"
        assert registry.digest("back", digest[7:31]) == digest
        (folder / "back").mkdir()
        for layer in made.image_layers(run["run_id"]):
            (made.store / "blobs" / "sha256" / layer[:2] / layer).rename(folder / "back" / layer)
        engine().remove_image(f"mirage/run:{digest[7:31]}")
        env = direct | {"MIRAGE_CACHE": str(folder / "cache-back"), "HTTPS_PROXY": "http://127.0.0.1:9"}
        again = json.loads(made.mirage("reproduce", run["run_id"], "--json", env=env))
        assert again["image"] == {"wanted": digest, "digest": digest, "origin": "registry", "equal": True}
        assert again["verdict"] == "IDENTICAL"
    finally:
        registry.stop()


def _check(kind: str, folder: Path, lock: str, index: dict[str, str]) -> None:
    here, there = project(folder / "here", lock), project(folder / "there", lock)
    first = here.run(env={**index, "MIRAGE_CACHE": str(folder / "cache")})
    try:
        with engines.engine(kind) as host:
            client = docker.APIClient(base_url=host)
            assert client.images() == []
            env = {**index, "DOCKER_HOST": host, "MIRAGE_CACHE": str(folder / "cache-there")}
            second = there.run(env=env)
            assert second["image"]["digest"] == first["image"]["digest"]
            assert second["image"]["config_digest"] == first["image"]["config_digest"]
            own = "digest" if kind == "containerd" else "config_digest"
            assert second["image"]["engine_id"] == second["image"][own]
            assert second["outputs"] == first["outputs"]
            assert second["run_key"] == first["run_key"]
            if kind == "podman":
                _back(there, second, env, folder)
            _empty(client)
            # with nothing but the first project's store: no cache, no package index, no registry
            nothing = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
            env |= {**nothing, "MIRAGE_CACHE": str(folder / "cache-empty")}
            again = json.loads(here.mirage("reproduce", first["run_id"], "--json", env=env))
            digest = first["image"]["digest"]
            assert again["image"] == {"wanted": digest, "digest": digest, "origin": "store", "equal": True}
            assert again["verdict"] == "IDENTICAL"
            _by_a_registry(here, first, client, env, folder)
            assert client.containers(all=True) == []
            client.close()
    except Missing as error:
        pytest.fail(f"{error} -> {error.hint}")
