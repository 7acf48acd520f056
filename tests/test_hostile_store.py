"""A store in a folder that somebody else writes to: links, pipes and devices in it, numbers beyond counting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import canonical
from orchestrator.artifacts import alias, version
from orchestrator.artifacts.version import Manifest
from orchestrator.digest import Digest, hex_of
from orchestrator.errors import MirageError, StoreError
from orchestrator.reference import ArtifactRef
from orchestrator.store import folder as folder_store
from orchestrator.store.folder import FolderStore

Plant = Callable[[Path], object]


def hole(path: Path) -> None:
    with path.open("wb") as sink:
        sink.truncate(1 << 40)


PLANTS: dict[str, Plant] = {
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "another's file": lambda path: path.symlink_to("/etc/passwd"),
    "itself": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
    "a terabyte": hole,
}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's, outside of the store, with a file in it that is old."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.txt").write_text("five years")
    (folder / "1-00112233445566aa").write_text("named as writers name theirs")
    return folder


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_what_is_no_file_is_not_read_as_an_object(store: FolderStore, tmp_path: Path, plant: Plant) -> None:
    (tmp_path / "store" / "refs").mkdir()
    plant(tmp_path / "store" / "refs" / "x.json")
    with pytest.raises(StoreError) as refused:
        store.read("refs/x.json")
    assert "refs/x.json" in refused.value.message


@pytest.mark.parametrize("plant", [PLANTS[name] for name in PLANTS if name != "a terabyte"])
def test_what_is_no_file_is_not_opened_as_a_blob(store: FolderStore, plant: Plant) -> None:
    digest = Digest("sha256:" + "ab" * 32)
    plant(store.blob_path(digest))
    with pytest.raises(StoreError):
        store.open(digest)
    assert not store.has(digest)


def test_opening_a_store_deletes_nothing_elsewhere(
    store: FolderStore, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / "store" / "staging"
    staging.rmdir()
    staging.symlink_to(victim)
    monkeypatch.setattr(folder_store, "_STALE", -1.0)  # as if all of it were older than a week
    with pytest.raises(StoreError, match="is a link"):
        FolderStore.open_at(tmp_path / "store")
    store.sweep(-1.0, pretend=False)
    assert len(list(victim.iterdir())) == 2


def test_a_sweep_takes_only_what_writers_leave(store: FolderStore, tmp_path: Path) -> None:
    staging = tmp_path / "store" / "staging"
    (staging / "notes.txt").write_text("somebody's")
    (staging / "7-00112233445566aa").write_text("a dead writer's")
    (staging / "8-00112233445566aa").symlink_to("notes.txt")
    assert store.sweep(-1.0, pretend=False)[0] == 1
    assert sorted(path.name for path in staging.iterdir()) == ["8-00112233445566aa", "notes.txt"]


def test_a_link_in_a_store_leads_no_deletion_out_of_it(
    store: FolderStore, tmp_path: Path, victim: Path
) -> None:
    digest = Digest("sha256:" + "cd" * 32)
    (victim / hex_of(digest)).write_text("not a blob")
    place = tmp_path / "store" / "blobs" / "sha256" / "cd"
    place.rmdir()
    place.symlink_to(victim)
    (tmp_path / "store" / "gc").symlink_to(victim)
    assert list(store.keys("gc/")) == []
    with pytest.raises(StoreError):
        store.discard("gc/thesis.txt")
    with pytest.raises(StoreError):
        store.remove([digest])
    assert len(list(victim.iterdir())) == 3


def published(store: FolderStore) -> version.Version:
    manifest = Manifest("dataset", "rows", "json", None, store.put(b""), 0, 0, "{}")
    return version.publish(store, manifest, None, None)


def test_a_number_beyond_counting_that_was_given_up_does_not_hang_latest(store: FolderStore) -> None:
    made = published(store)
    for number in (10**12, 10**100):
        store.create(f"refs/dataset/rows/v{number}.json", canonical.encode({"digest": made.digest}))
        store.create(
            f"tombstones/dataset/rows/v{number}.json",
            json.dumps({"digest": made.digest, "by": "", "at": "", "reason": "x", "givenUp": []}).encode(),
        )
    assert version.resolve(store, "dataset:rows:latest").ref == made.ref


def test_a_last_move_of_an_alias_does_not_hang_the_next(store: FolderStore) -> None:
    made = published(store)
    data = canonical.encode({"schema": "mirage-alias/1", "version": "v9", "by": "", "at": "", "reason": ""})
    store.create("alias/dataset/rows/best/9999999999999999.json", data)
    with pytest.raises(MirageError, match="for the last time"):
        alias.point(store, ArtifactRef("dataset", "rows", made.ref.version), "best")
