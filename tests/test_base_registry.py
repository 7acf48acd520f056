"""Bases from a registry: a real one on the loopback, pinned by digest, taken in, and given back without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ConfigError, EngineError, ImageError, LockError
from orchestrator.executors import gpus
from orchestrator.image import registry_base
from orchestrator.image.base import LOCK_FILE, Pin, read_lock, write_pin
from orchestrator.image.base_image import Base
from orchestrator.image.layer import Entry, to_bytes
from orchestrator.image.loading import ensure, tag_of
from orchestrator.image.oci import Layer, RunConfig, build
from tests.base_tools import Place, own_base, place
from tests.registry_tools import Registry


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def own(here: Place, tmp_path_factory: pytest.TempPathFactory) -> Base:
    base = own_base(here.bank, tmp_path_factory.mktemp("other"))
    ensure(here.engine, base.image, base.tag, (), here.library.read)
    return base


@pytest.fixture(scope="module")
def registry(here: Place, own: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that has Mirage's own base as team/python:3.11 and as team/mirror:latest."""
    running = Registry(tmp_path_factory.mktemp("registry") / "registry")
    client = docker.from_env().api
    names = [f"{running.address}/team/python:3.11", f"{running.address}/team/mirror:latest"]
    try:
        for name in names:
            here.engine.tag(own.tag, name)
            said = list(client.push(name, stream=True, decode=True))
            assert not [line for line in said if "error" in line], said
        yield running
    finally:
        running.stop()
        for name in names:
            here.engine.remove_image(name)
        for name in here.engine.pulled:
            here.engine.remove_image(name)
        client.close()


@pytest.fixture(scope="module")
def pinned(here: Place, registry: Registry) -> Base:
    return here.pin(f"{registry.address}/team/python:3.11")


def test_a_moving_name_that_is_not_pinned_is_refused_with_the_command_that_pins_it(here: Place) -> None:
    with pytest.raises(ConfigError, match=r"python:3\.12-slim is a moving name") as caught:
        here.resolve("python:3.12-slim")
    assert caught.value.exit_code == 2
    assert "mirage base pin python:3.12-slim" in (caught.value.hint or "")


def test_the_lock_has_the_registrys_own_digest(here: Place, registry: Registry, pinned: Base) -> None:
    name = f"{registry.address}/team/python:3.11"
    pin = read_lock(here.project)[name, str(here.platform)]
    assert pin.digest == registry.digest("team/python", "3.11") == pinned.digest
    assert pin.source == f"{registry.address}/team/python@{pin.digest}"


def test_its_layers_are_the_ones_that_were_pushed_by_diff_id(here: Place, own: Base, pinned: Base) -> None:
    assert pinned.image.diff_ids == own.image.diff_ids
    assert sum(map(len, here.library.read(pinned.image.diff_ids[0]))) == own.image.size
    assert pinned.python == own.python
    assert dict(pinned.env) == dict(own.env)


def test_resolving_again_does_not_pull(here: Place, registry: Registry, pinned: Base) -> None:
    before = list(here.engine.pulled)
    assert here.resolve(f"{registry.address}/team/python:3.11") == pinned
    assert here.resolve(f"{registry.address}/team/python@{pinned.digest}").image == pinned.image
    assert here.engine.pulled == before


def test_what_an_image_is_called_does_not_change_what_is_built_on_it(
    here: Place, registry: Registry, pinned: Base, tmp_path: Path
) -> None:
    other = here.another_machine(tmp_path / "cache")
    other.bank = tmp_path / "bank"
    name = f"{registry.address}/team/mirror@{registry.digest('team/mirror', 'latest')}"
    try:
        mirrored = other.resolve(name)
    finally:
        for pulled in other.engine.pulled:
            here.engine.remove_image(pulled)
    assert mirrored.name == mirrored.source == name
    assert mirrored.digest == pinned.digest
    assert (mirrored.image.layers, mirrored.env) == (pinned.image.layers, pinned.env)


def test_a_name_that_moves_means_what_the_registry_has_now(here: Place, registry: Registry) -> None:
    name = f"{registry.address}/team/moving:1"
    client = docker.from_env().api
    digests: list[str] = []
    for content in (b"one", b"two"):
        data = to_bytes([Entry(b"content", "file", data=content)])
        image = build(here.platform, (Layer(of_bytes(data), len(data), "test"),), RunConfig(), 0)
        own_tag = tag_of("test", image)
        ensure(here.engine, image, own_tag, (), lambda _, data=data: iter((data,)))  # type: ignore[misc]
        here.engine.tag(own_tag, name)
        assert not [line for line in client.push(name, stream=True, decode=True) if "error" in line]
        for each in (own_tag, name):
            here.engine.remove_image(each)
        digests.append(registry_base.find_digest(here.engine, name, here.platform, here.notes))
        assert digests[-1] == registry.digest("team/moving", "1")
        here.engine.remove_image(name)
    client.close()
    assert digests[0] != digests[1]


def test_a_dockerfile_from_a_registry_is_pinned_with_its_from(
    here: Place, registry: Registry, pinned: Base
) -> None:
    image = f"{registry.address}/team/mirror"
    here.write("Dockerfile.reg", f"FROM {image}\nRUN echo hi > /hi\n")
    with pytest.raises(ConfigError, match=r"Dockerfile\.reg:1: FROM .* is a moving name"):
        here.resolve("Dockerfile.reg")
    base = here.pin("Dockerfile.reg")
    pins = read_lock(here.project)
    assert pins[image, str(here.platform)].digest == registry.digest("team/mirror", "latest")
    assert pins["Dockerfile.reg", str(here.platform)].digest == base.digest
    assert base.image.diff_ids != pinned.image.diff_ids


def test_a_digest_that_is_gone_upstream_comes_from_the_store(
    here: Place, registry: Registry, pinned: Base, tmp_path: Path
) -> None:
    name = f"{registry.address}/team/python:3.11"
    other = here.another_machine(tmp_path / "cache")
    other.engine.offline = True
    assert other.resolve(name) == pinned
    elsewhere = other.another_machine(tmp_path / "cache2")
    elsewhere.bank = tmp_path / "an-empty-store"
    elsewhere.engine.offline = True
    unknown = Digest("sha256:" + "1" * 64)
    with pytest.raises(ImageError, match="neither on this machine nor in the store") as caught:
        elsewhere.resolve(f"{registry.address}/team/python@{unknown}")
    assert "store that has this base" in (caught.value.hint or "")


def test_a_name_that_the_registry_does_not_know_is_an_engine_error_and_pins_nothing(
    here: Place, registry: Registry
) -> None:
    before = (here.project / LOCK_FILE).read_text()
    with pytest.raises(EngineError, match=r"pull .*team/nothing:1"):
        here.pin(f"{registry.address}/team/nothing:1")
    assert (here.project / LOCK_FILE).read_text() == before


@pytest.mark.parametrize(
    ("name", "repository", "tag", "digest"),
    [
        ("python:3.12-slim", "python", "3.12-slim", None),
        ("registry.example:5000/team/python", "registry.example:5000/team/python", "latest", None),
        ("a/b:1@sha256:" + "0" * 64, "a/b", "1", "sha256:" + "0" * 64),
    ],
)
def test_image_references_are_read_as_engines_read_them(
    name: str, repository: str, tag: str, digest: str | None
) -> None:
    found = registry_base.parse(name)
    assert (found.repository, found.tag, found.digest) == (repository, tag, digest)


@pytest.mark.parametrize("name", ["python@sha256:123", "python@latest", ":1", "python:", "a b:1"])
def test_what_is_no_image_reference_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError):
        registry_base.parse(name)


def test_a_pin_replaces_only_its_own_entry_and_the_file_is_the_same_in_any_order(tmp_path: Path) -> None:
    pins = {
        ("b:1", "linux/arm64"): Pin(Digest("sha256:" + "2" * 64), "b@2"),
        ("a", "linux/amd64"): Pin(Digest("sha256:" + "1" * 64), "recipe:a"),
        ("b:1", "linux/amd64"): Pin(Digest("sha256:" + "3" * 64), "b@3"),
    }
    texts: list[bytes] = []
    for order in (list(pins), list(reversed(pins))):
        folder = tmp_path / str(len(texts))
        folder.mkdir()
        for name, platform in order:
            write_pin(folder, name, platform, pins[name, platform])
        assert read_lock(folder) == pins
        texts.append((folder / LOCK_FILE).read_bytes())
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["schema"] == "mirage-base-lock/1"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": "mirage-base-lock/9", "bases": {}}',
        '{"schema": "mirage-base-lock/1"}',
        '{"schema": "mirage-base-lock/1", "bases": {"a": {"linux/amd64": {"digest": "../x", "source": "y"}}}}',
    ],
)
def test_a_damaged_lock_is_a_lock_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / ".mirage").mkdir()
    (tmp_path / LOCK_FILE).write_text(text)
    with pytest.raises(LockError, match=r"base\.lock\.json cannot be read"):
        read_lock(tmp_path)


def test_what_an_image_sets_is_told_before_it_is_pulled(here: Place, registry: Registry, own: Base) -> None:
    """With GPUs a run is refused by it (gpus.check_image), without the time and room of a pull."""
    name = f"{registry.address}/team/evil:1"
    made = build(
        here.platform, own.image.layers, RunConfig(env=(*own.env, ("LD_PRELOAD", "/evil.so"))), 315532800
    )
    ensure(here.engine, made, name, (), here.library.read)
    client = docker.from_env().api
    try:
        said = list(client.push(name, stream=True, decode=True))
        digest = next(line["aux"]["Digest"] for line in said if "aux" in line)
    finally:
        here.engine.remove_image(name)
        client.close()
    exact = f"{registry.address}/team/evil@{digest}"
    assert registry_base.told_env(exact, here.platform) == (*own.env, ("LD_PRELOAD", "/evil.so"))
    pulled = list(here.engine.pulled)
    with pytest.raises(ImageError, match="CVE-2025-23266"):
        registry_base.present(here.engine, here.notes, exact, here.platform, gpus.check_image)
    assert here.engine.pulled == pulled
    assert registry_base.told_env(f"{registry.address}/team/none@{digest}", here.platform) == ()
    assert registry_base.told_env(f"127.0.0.1:1/team/none@{digest}", here.platform) == ()
