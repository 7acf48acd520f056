"""The suite of all stores on XFS, Btrfs and a network mount, with all its files there; and two machines on that mount."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from orchestrator.checks import stores
from orchestrator.store.folder import FolderStore
from orchestrator.store.probing import probe
from orchestrator.store.promises import FolderPromises
from tests.figures import Counted
from tests.race_tools import RACES, races
from tests.s3_tools import network_mount
from tests.store_tools import Backend, disk, folder_backend

suite = import_module("tests.test_store_conformance")
globals().update({name: each for name, each in vars(suite).items() if name.startswith("test_")})
store = suite.store  # the same suite, on the backend below


@pytest.fixture(scope="module", params=["xfs", "btrfs", "network"])
def machines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """A kind of file system, and one of it as two machines see it: by mounts of their own, where it is a network's."""
    folder = tmp_path_factory.mktemp("disk")
    with ExitStack() as stack:
        if request.param == "network":
            server = request.getfixturevalue("seaweedfs")
            shared = f"nas-{secrets.token_hex(4)}"
            first, second = (
                stack.enter_context(network_mount(server, folder / name, shared)) for name in ("a", "b")
            )
        else:
            first = second = stack.enter_context(disk(request.param, folder))
        yield request.param, first, second


@pytest.fixture
def tmp_path(machines: tuple[str, Path, Path]) -> Path:
    """Everything that a test writes lies there."""
    path = machines[1] / secrets.token_hex(6)
    path.mkdir()
    return path


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with folder_backend("folder", tmp_path) as backend:
        yield backend


def test_the_probe_tells_what_it_promises(machines: tuple[str, Path, Path], tmp_path: Path) -> None:
    found = probe(FolderStore.open_at(tmp_path / "store"))
    assert found == FolderPromises(True, True, True, reflink=machines[0] != "network")
    (told,) = stores.examine(FolderStore.open_at(tmp_path / "store"))
    kind = {"network": "fuse.seaweedfs"}.get(machines[0], machines[0])
    assert f"on {kind}: creates once by link(2), also raced" in told.text


def test_two_machines_race_for_names(
    machines: tuple[str, Path, Path], tmp_path: Path, counted: Counted
) -> None:
    second = machines[2] / tmp_path.name
    races(tmp_path / "store", counted(RACES), publishers=6, rounds=6, readers=2, second=second / "store")
