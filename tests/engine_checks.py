"""What must hold on any other engine: the image of this machine's engine, bit for bit, and the same run on it."""

from __future__ import annotations

import json
from pathlib import Path

import docker
import pytest

from scripts import engines
from scripts.packages import Missing
from tests.base_tools import own_base
from tests.image_tools import SIX, Index
from tests.lock_tools import sdist
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
    """Builds and runs a project here and on another engine, and makes the first run again there, from its store.

    One of its packages is built from source, in a container without the shared cache.
    """
    with Index(sdist("rough")) as index:
        lock = f"rough==1.0 --hash={index.hash('rough')}\n{SIX.decode()}"
        _check(kind, folder, lock, {"UV_INDEX": index.url, "PIP_FIND_LINKS": ""})


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
            for image in client.images():
                for tag in image["RepoTags"] or ():
                    client.remove_image(tag, force=True)
            assert client.images() == []
            # with nothing but the first project's store: no cache, no package index, no registry
            nothing = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
            env |= {**nothing, "MIRAGE_CACHE": str(folder / "cache-empty")}
            again = json.loads(here.mirage("reproduce", first["run_id"], "--json", env=env))
            digest = first["image"]["digest"]
            assert again["image"] == {"wanted": digest, "digest": digest, "origin": "store", "equal": True}
            assert again["verdict"] == "IDENTICAL"
            assert client.containers(all=True) == []
            client.close()
    except Missing as error:
        pytest.fail(f"{error} -> {error.hint}")
