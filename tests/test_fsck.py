"""`mirage fsck`: every planted fault is found, named by whom it is of, and mended from another copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts import alias, by_hand
from orchestrator.artifacts.version import resolve
from orchestrator.digest import Digest, of_bytes
from orchestrator.store.folder import FolderStore
from orchestrator.upkeep.fsck import Check, Report
from tests.run_tools import Project
from tests.store_tools import Heard, blob, check_store

ID = "dataset:data:v1"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    made = FolderStore.open_at(tmp_path / "store")
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "one").write_text("one")
    (folder / "two").write_text("two")
    found = by_hand.add(made, folder, kind="dataset", name="data", version=None)
    alias.point(made, found.ref, "best")
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=shutil.copy2)
    return made


def _check(store: FolderStore, *, repair: bool = False, copy: bool = False) -> Report:
    others = [FolderStore.open_at(Path(store.location).with_name("copy"))] if copy else []
    return Check(store, Heard()).run(repair=repair, copies=others)


def _overwrite(path: Path, data: bytes) -> None:
    """As a disk does it: other bytes, the same mode and time. In a file of its own: layers are links into the cache."""
    stamp = path.stat()
    other = path.with_name("planted")
    other.write_bytes(data)
    other.chmod(0o444)
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(path)


def _rot(root: Path, digest: Digest) -> None:
    path = blob(root, digest)
    _overwrite(path, b"\0" * path.stat().st_size)


def _tree(root: Path) -> Digest:
    return resolve(FolderStore.open_at(root), ID).manifest.tree


FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a rotten file": (lambda root: _rot(root, of_bytes(b"one")), "damaged", f"{ID} inner/one"),
    "a missing file": (lambda root: blob(root, of_bytes(b"two")).unlink(), "missing", f"{ID} two"),
    "a torn file": (
        lambda root: _overwrite(blob(root, of_bytes(b"one")), b"on"),
        "damaged",
        f"{ID} inner/one",
    ),
    "a rotten tree": (lambda root: _rot(root, _tree(root)), "damaged", f"{ID} (tree)"),
    "a missing manifest": (
        lambda root: blob(root, resolve(FolderStore.open_at(root), ID).digest).unlink(),
        "missing",
        f"{ID} (manifest)",
    ),
    "a damaged version": (
        lambda root: _overwrite(root / "refs/dataset/data/v1.json", b"{"),
        "damaged",
        f"the version {ID}",
    ),
    "a damaged alias": (
        lambda root: _overwrite(root / f"alias/dataset/data/best/{1:016}.json", b"[]"),
        "damaged",
        "a move of the alias dataset:data:best",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_named_and_mended(store: FolderStore, fault: str) -> None:
    plant, state, owner = FAULTS[fault]
    root = Path(store.location)
    assert _check(store).findings == ()
    plant(root)
    [found] = _check(store).open
    assert found.state == state
    assert found.owners[0].startswith(owner)
    assert len(_check(store, repair=True).open) == 1, "there is nothing to mend it from"
    report = _check(store, repair=True, copy=True)
    assert report.open == []
    assert report.findings[0].mended.startswith("restored from")
    assert _check(store).findings == ()
    assert check_store(root) == 4
    assert resolve(store, "dataset:data:best").ref.version == "v1"


def test_what_a_mended_tree_names_is_mended_too(store: FolderStore) -> None:
    root = Path(store.location)
    blob(root, _tree(root)).unlink()
    _rot(root, of_bytes(b"one"))
    blob(root, of_bytes(b"two")).unlink()
    assert len(_check(store).open) == 2, "what only the tree names cannot be missed yet"
    assert _check(store, repair=True, copy=True).open == []
    assert check_store(root) == 4


def test_modes_and_damage_that_nobody_needs(store: FolderStore) -> None:
    root = Path(store.location)
    blob(root, of_bytes(b"one")).chmod(0o644)
    garbage = store.put(b"garbage")
    _rot(root, garbage)
    assert {each.state for each in _check(store).open} == {"mode", "damaged"}
    assert _check(store, repair=True).open == []
    assert blob(root, of_bytes(b"one")).stat().st_mode & 0o777 == 0o444
    assert not store.has(garbage)


def test_a_copy_that_is_damaged_too_mends_nothing(store: FolderStore) -> None:
    root = Path(store.location)
    _rot(root, of_bytes(b"one"))
    _rot(root.with_name("copy"), of_bytes(b"one"))
    assert len(_check(store, repair=True, copy=True).open) == 1
    assert blob(root, of_bytes(b"one")).exists(), "damaged bytes may be all that there is"


def test_by_the_command_line(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "p", "from mirage import artifact\nartifact.File.save(b'made', name='made')\n"
    )
    run = project.run()["run_id"]
    assert project.asked("fsck")["findings"] == []
    shutil.copytree(project.store, tmp_path / "copy", copy_function=shutil.copy2)
    blob(project.store, of_bytes(b"made")).unlink()
    log = next(
        item["digest"]["sha256"]
        for item in project.record(run)["predicate"]["runDetails"]["byproducts"]
        if item["name"] == "environment.json"
    )
    _rot(project.store, Digest(f"sha256:{log}"))
    out = project.mirage("fsck", code=9)
    assert "file:made:v1" in out
    assert f"environment.json of run {run}" in out
    out = project.mirage("fsck", "--repair", "--from", str(tmp_path / "copy"))
    assert "restored from" in out
    assert "all is well" in out
    blob(project.store, of_bytes(b"made")).unlink()
    project.mirage("fsck", "--repair", code=7)
    project.refused("fsck", "--from", "x", code=2, program="mirage")
