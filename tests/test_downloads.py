"""How far a download is: pulls of base images and packages for an environment, in bytes, from where the engine has them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import docker
import pytest

from orchestrator.digest import of_bytes
from orchestrator.executors.answers import Layers
from orchestrator.image import builder, registry_base
from orchestrator.image.downloads import STEP
from orchestrator.image.layer import Entry, to_bytes
from orchestrator.image.loading import ensure, tag_of
from orchestrator.image.oci import Layer, Platform, RunConfig, build
from tests.image_tools import Index, Notes, engine, library, provide, python_base, wheel
from tests.registry_tools import Registry

LARGE = 12 << 20


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache volume of the test's own."""
    name = f"mirage-test-{secrets.token_hex(6)}"
    monkeypatch.setattr(builder, "CACHE_VOLUME", name)
    yield name
    engine().remove_volume(name)


def line(name: str, status: str, *numbers: int) -> dict[str, Any]:
    detail = dict(zip(("current", "total"), numbers, strict=False))
    return {"id": name, "status": status, "progressDetail": detail}


def test_what_an_engine_says_of_a_pull_in_bytes() -> None:
    """The lines of Docker 20.10: layers begin one by one, and one that is small says nothing before it is whole."""
    layers = Layers()
    assert not layers.tell({"status": "Pulling from team/python", "id": "3.11"})
    assert not layers.tell(line("a", "Pulling fs layer"))
    assert not layers.tell(line("b", "Already exists"))
    assert layers.tell(line("a", "Downloading", 10, 100))
    assert (layers.done, layers.total) == (10, 100)
    assert layers.tell(line("c", "Downloading", 5, 50))
    assert (layers.done, layers.total) == (15, 150)
    assert layers.tell(line("a", "Verifying Checksum"))
    assert not layers.tell(line("a", "Extracting", 3, 100))
    assert (layers.done, layers.total) == (105, 150)
    assert not layers.tell(line("c", "Downloading", 7, -1)), "a registry that does not say how much it is"
    assert layers.tell(line("c", "Pull complete"))
    assert (layers.done, layers.total) == (150, 150)


def test_a_pull_tells_its_bytes(tmp_path: Path) -> None:
    data = to_bytes([Entry(b"large", "file", data=os.urandom(LARGE))])
    platform = Platform(engine().info().os, engine().info().architecture)
    image = build(platform, (Layer(of_bytes(data), len(data), "test"),), RunConfig(), 0)
    registry, own, client = Registry(tmp_path / "registry"), tag_of("test", image), docker.from_env().api
    name = f"{registry.address}/team/large:1"
    try:
        ensure(engine(), image, own, (), lambda _: iter((data,)))
        engine().tag(own, name)
        assert not [each for each in client.push(name, stream=True, decode=True) if "error" in each]
        for each in (own, name):
            engine().remove_image(each)
        notes = Notes()
        digest = registry_base.find_digest(engine(), name, platform, notes)
        assert digest == registry.digest("team/large", "1")
    finally:
        for each in (own, name):
            engine().remove_image(each)
        client.close()
        registry.stop()
    step, done, total, ended = notes.steps[-1]
    assert (step, ended) == (f"pull {name}", True)
    assert done == total and total is not None and LARGE < total < 1.1 * LARGE


def test_packages_tell_their_bytes_as_they_come(tmp_path: Path, volume: str) -> None:
    """Over the builder's own network; what is in the installer's cache already is not told, since it does not come."""
    python_base()
    # the bridge's own address; an engine that was started for the first time does not name it
    (config,) = docker.from_env().api.inspect_network("bridge")["IPAM"]["Config"]
    gateway = config.get("Gateway") or str(ip_network(config["Subnet"])[1])
    heavy = wheel("heavy", {"heavy/data.bin": os.urandom(LARGE)})
    with Index(heavy, pace=4 << 20, host=gateway) as index:
        notes = Notes()
        provide(index.lock("heavy"), library(tmp_path / "a"), notes, index.handover(tmp_path))
        again = Notes()
        provide(index.lock("heavy"), library(tmp_path / "b"), again, index.handover(tmp_path))
    told = [(done, ended) for step, done, total, ended in notes.steps if step == STEP and total is None]
    amounts = [done for done, _ in told]
    assert amounts == sorted(amounts) and len({*amounts}) >= 2, "it is told on the way"
    assert told[-1][1] and 4 << 20 < amounts[-1] < 2 * LARGE
    assert not [step for step in again.steps if step[0] == STEP]
