"""Many publishers at once: real processes, one store, no lock."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts.version import VersionExists, newest_number, publish, resolve, versions
from orchestrator.store.folder import FolderStore
from tests.figures import Counted
from tests.race_tools import RACES, races
from tests.store_tools import check_store, manifest, save, second_file_system, staged

PROCESSES = 8
ROUNDS = 100

_fork = multiprocessing.get_context("fork")


def _together(action: Callable[[int, FolderStore], list[str]], root: Path) -> list[list[str]]:
    """Run in all processes at the same moment, each with a store of its own."""
    FolderStore.open_at(root)
    gate = _fork.Barrier(PROCESSES)
    results = _fork.SimpleQueue()

    def work(number: int) -> None:
        store = FolderStore.open_at(root)
        gate.wait()
        results.put(action(number, store))

    workers = [_fork.Process(target=work, args=(number,)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return found


def _allocate(number: int, store: FolderStore) -> list[str]:
    return [
        publish(store, manifest(store, text=f"{number} {turn}"), None, None).ref.version
        for turn in range(ROUNDS)
    ]


def _check_allocated(found: list[list[str]], root: Path) -> None:
    every = [version for one in found for version in one]
    assert sorted(every) == sorted(f"v{n}" for n in range(1, PROCESSES * ROUNDS + 1))
    for one in found:
        numbers = [int(version[1:]) for version in one]
        assert numbers == sorted(numbers), "a later save of one process got an earlier version"
    store = FolderStore.open_at(root)
    assert len(versions(store, "dataset", "data")) == PROCESSES * ROUNDS
    assert staged(root) == []
    check_store(root)


def test_automatic_versions_are_contiguous_and_unique(tmp_path: Path) -> None:
    _check_allocated(_together(_allocate, tmp_path / "store"), tmp_path / "store")


def test_they_are_on_another_file_system_too(tmp_path: Path) -> None:
    with second_file_system(tmp_path) as folder:
        _check_allocated(_together(_allocate, folder / "store"), folder / "store")


def test_a_custom_version_has_one_winner(tmp_path: Path) -> None:
    def claim(number: int, store: FolderStore) -> list[str]:
        won = []
        for turn in range(20):
            try:
                publish(
                    store, manifest(store, text=f"by {number} in {turn}"), f"exp{turn:03}", f"run-{number}"
                )
                won.append(f"exp{turn:03}")
            except VersionExists as error:
                assert f"exp{turn:03} exists already with other content" in error.message
        return won

    found = _together(claim, tmp_path / "store")
    assert Counter(version for one in found for version in one) == Counter(f"exp{n:03}" for n in range(20))
    store = FolderStore.open_at(tmp_path / "store")
    for number, one in enumerate(found):
        del number
        runs = {resolve(store, f"dataset:data:{version}").run for version in one}
        assert len(runs) <= 1, "the version of a winner names another run"


def test_twenty_races_of_sixteen_publishers_with_readers_beside_them(
    tmp_path: Path, counted: Counted
) -> None:
    races(tmp_path / "store", counted(RACES), publishers=16, rounds=20, readers=4)


@pytest.mark.parametrize("version", [None, "exp001"])
def test_equal_content_gets_one_version(tmp_path: Path, version: str | None) -> None:
    def same(number: int, store: FolderStore) -> list[str]:
        return [publish(store, manifest(store, text="same"), version, None).ref.version for _ in range(10)]

    found = _together(same, tmp_path / "store")
    assert {seen for one in found for seen in one} == {version or "v1"}
    assert newest_number(FolderStore.open_at(tmp_path / "store"), "dataset", "data") == (0 if version else 1)


def test_one_tree_may_be_taken_by_many_at_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / str(number)).write_bytes(number.to_bytes(4, "big") * 10_000 * (number % 3))

    def take(number: int, store: FolderStore) -> list[str]:
        return [save(store, source, f"name{number}").manifest.tree]

    found = _together(take, tmp_path / "store")
    assert len({one[0] for one in found}) == 1
    assert staged(tmp_path / "store") == []
    check_store(tmp_path / "store")
