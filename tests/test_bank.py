"""What the store keeps by `bank:`: layers and bases or not, and wheels from which an environment comes without any index."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ImageError, LockError
from orchestrator.image import builder, wheel_bank
from orchestrator.image.environment import Environment
from orchestrator.image.library import Library
from orchestrator.store.folder import FolderStore
from tests.image_tools import Index, Notes, engine, provide, read_all, wheel
from tests.lock_tools import sdist
from tests.run_tools import Project

BUILT = "    import time; extra = time.time_ns()\n"  # another wheel each time


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache volume of the test's own."""
    name = f"mirage-test-{secrets.token_hex(6)}"
    monkeypatch.setattr(builder, "CACHE_VOLUME", name)
    yield name
    engine().remove_volume(name)


def machine(folder: Path, name: str, *banked: str) -> Library:
    """A machine of its own on a shared store."""
    return Library(FolderStore.open_at(folder / name), FolderStore.open_at(folder / "bank"), banked)


def blob(folder: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return folder / "blobs" / "sha256" / name[:2] / name


def test_an_environment_comes_from_the_stores_wheels_with_no_network_at_all(
    tmp_path: Path, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (wheel("plain", {"plain.py": b"x = 1\n"}), sdist("rough", BUILT))
    with Index(*files, login="me:pass-word-1") as index:
        host = index.handover(tmp_path, UV_DEFAULT_INDEX=index.url.replace("//", "//me:pass-word-1@"))
        first = provide(
            index.lock("plain") + b"rough==1.0\n",
            machine(tmp_path, "one", "wheels"),
            Notes(),
            host,
            network="host",
        )
        lock = index.lock("plain") + b"rough==1.0\n"
    kept = wheel_bank.find(machine(tmp_path, "two"), first.key)
    assert kept is not None
    assert [each.file for each in kept] == ["plain-1.0-py3-none-any.whl", "rough-1.0-py3-none-any.whl"]
    assert not blob(tmp_path / "bank", first.layer.digest).exists()  # layers were not asked for
    monkeypatch.setattr(builder, "CACHE_VOLUME", volume + "-other")
    try:
        notes = Notes()
        second = provide(lock, machine(tmp_path, "two"), notes, host)  # the index is gone
    finally:
        engine().remove_volume(volume + "-other")
    assert second.layer == first.layer
    assert not second.cached
    assert notes.notes == ["all of its wheels are kept: no index is asked"]
    assert told(tmp_path, "two", second) == told(tmp_path, "one", first)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"pass-word-1" in p.read_bytes()]


def told(folder: Path, name: str, made: Environment) -> object:
    return json.loads(read_all(machine(folder, name), made.installed))


def test_wheels_are_fetched_for_an_environment_that_is_known_already(tmp_path: Path, volume: str) -> None:
    with Index(wheel("plain", {"plain.py": b"x = 1\n"})) as index:
        hosts = index.handover(tmp_path)
        first = provide(index.lock("plain"), machine(tmp_path, "one"), Notes(), hosts, network="host")
        assert wheel_bank.find(machine(tmp_path, "one"), first.key) is None
        again = provide(
            index.lock("plain"), machine(tmp_path, "one", "wheels"), Notes(), hosts, network="host"
        )
        served = len(index.served)
        third = provide(
            index.lock("plain"), machine(tmp_path, "one", "wheels"), Notes(), hosts, network="host"
        )
    assert again.cached and third.cached
    assert len(index.served) == served
    (kept,) = wheel_bank.find(machine(tmp_path, "two"), first.key) or ()
    assert str(kept.digest) == index.hash("plain")


def test_a_kept_wheel_that_was_altered_is_refused(tmp_path: Path, volume: str) -> None:
    with Index(wheel("plain", {"plain.py": b"x = 1\n"})) as index:
        hosts, lock = index.handover(tmp_path), index.lock("plain")
        provide(lock, machine(tmp_path, "one", "wheels"), Notes(), hosts, network="host")
        digest = index.hash("plain")
    path = blob(tmp_path / "bank", digest)
    data, stamp = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(data.replace(b"x = 1", b"x = 2"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a disk does it, unseen
    with pytest.raises((ImageError, LockError)) as caught:
        provide(lock, machine(tmp_path, "two"), Notes(), hosts)
    assert f"{digest}" in caught.value.message
    assert "damaged" in caught.value.message


@pytest.mark.parametrize(("bank", "has"), [("[]", set()), ("[layers]", {"layers"}), ("[base]", {"base"})])
def test_the_store_gets_what_the_setting_says(tmp_path: Path, bank: str, has: set[str]) -> None:
    project = Project(
        tmp_path / "repository",
        "print(1)\n",
        files={".mirage/project.yaml": f"project: probe\nworkflow: workflows.main\nbank: {bank}\n"},
    )
    made = project.run()
    layers = project.asked("image", "build", "--config", "configs/a.yaml")["layers"]
    for layer in layers:
        kind = "base" if "base" in layer["of"] else "layers"
        assert blob(project.store, layer["digest"]).exists() == (kind in has), layer
    record = project.record(made["run_id"])
    byproducts = {item["name"]: item for item in record["predicate"]["runDetails"]["byproducts"]}
    assert project.blob(byproducts["environment.json"]["digest"]["sha256"]) == b"[]"
