"""The suite of all stores on a mount of a NAS (MIRAGE_NAS_MOUNT); pytest is given this file in a guest of tests/nas_guests.py."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from orchestrator.artifacts import by_hand, copying_out
from orchestrator.checks import stores
from orchestrator.store import promises
from orchestrator.store.folder import FolderStore
from orchestrator.store.following import LARGE
from orchestrator.store.promises import FolderPromises
from orchestrator.store.staging import staged_name
from tests.figures import Counted
from tests.race_tools import RACES, races
from tests.store_tools import Backend, folder_backend, staged

suite = import_module("tests.test_store_conformance")
globals().update({name: each for name, each in vars(suite).items() if name.startswith("test_")})
store = suite.store  # the same suite, on the backend below


@pytest.fixture
def tmp_path() -> Path:
    """Everything that a test writes lies there."""
    path = Path(os.environ["MIRAGE_NAS_MOUNT"]) / secrets.token_hex(6)
    path.mkdir()
    return path


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with folder_backend("folder", tmp_path) as backend:
        yield backend


def test_the_probe_tells_what_it_promises(backend: Backend) -> None:
    store = FolderStore.open_at(backend.root)
    found = promises.examine(lambda: staged_name(store))
    assert found == FolderPromises(True, True, True, kind=os.environ["MIRAGE_NAS_KIND"])
    assert found.problem is None
    assert staged(backend.root) == []
    (told,) = stores.examine(store)
    assert f"on {found.kind}: creates once by link(2), also raced" in told.text
    print(told.text)


def test_a_large_file_comes_and_goes(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3 * LARGE))
    store = FolderStore.open_at(backend.root)
    for link in (False, True):
        made = by_hand.add(store, tmp_path / "file", kind="dataset", name="large", version=None, link=link)
        copying_out.copy_out(store, made, tmp_path / f"out-{link}")
        assert (tmp_path / f"out-{link}").read_bytes() == (tmp_path / "file").read_bytes()


def test_many_race_for_names(backend: Backend, counted: Counted) -> None:
    races(backend.root, counted(RACES), publishers=4, rounds=6, readers=1)
