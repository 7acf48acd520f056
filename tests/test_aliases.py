"""Aliases with their history, tombstones, and the questions about artifacts, by the real command line."""

from __future__ import annotations

import multiprocessing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import alias, tombstone
from orchestrator.artifacts.version import publish, resolve, standing
from orchestrator.errors import ArtifactError
from orchestrator.store.folder import FolderStore
from tests.run_tools import Project
from tests.store_tools import in_child, manifest


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


def _publish(store: FolderStore, text: str, version: str | None = None) -> Any:
    return publish(store, manifest(store, text=text), version, None)


def test_an_alias_moves_and_every_move_is_kept(store: FolderStore) -> None:
    one, two = _publish(store, "a").ref, _publish(store, "b").ref
    alias.point(store, one, "best", reason="the first")
    alias.point(store, one, "best")
    assert resolve(store, "dataset:data:best").ref == one
    alias.point(store, two, "best", reason="better")
    assert resolve(store, "dataset:data:best").ref == two
    moves = alias.history(store, "dataset", "data", "best")
    assert [(move.number, move.version, move.reason) for move in moves] == [
        (1, "v1", "the first"),
        (2, "v2", "better"),
    ]
    alias.point(store, two, "best", away=True)
    assert alias.of_artifact(store, "dataset", "data") == {}
    with pytest.raises(ArtifactError, match="there is no artifact dataset:data:best"):
        resolve(store, "dataset:data:best")


def test_of_many_who_move_an_alias_every_move_is_kept(store: FolderStore) -> None:
    refs = [_publish(store, text).ref for text in "abcd"]

    def move() -> None:
        for number in range(40):
            alias.point(FolderStore(Path(store.location)), refs[number % 4], "best")

    children = [in_child_soon(move) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    moves = alias.history(store, "dataset", "data", "best")
    assert [each.number for each in moves] == [*range(1, len(moves) + 1)], "no gap, no double"
    assert len(moves) > 40
    assert all(a.version != b.version for a, b in pairwise(moves))


class in_child_soon:
    """A forked process that runs beside the test."""

    def __init__(self, action: Any) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=lambda: action())
        self._process.start()

    def wait(self) -> int | None:
        self._process.join(60)
        return self._process.exitcode


@pytest.mark.parametrize("word", ["latest", "v3", "exp001", "Best", "../x", ""])
def test_what_cannot_be_an_alias_is_refused(store: FolderStore, word: str) -> None:
    ref = _publish(store, "a", "exp001").ref
    with pytest.raises(ArtifactError):
        alias.point(store, ref, word)
    assert list(store.keys("alias/")) == []


def test_an_alias_cannot_become_a_version(store: FolderStore) -> None:
    alias.point(store, _publish(store, "a").ref, "best")
    with pytest.raises(ArtifactError, match="best is an alias"):
        _publish(store, "b", "best")


def test_a_removed_version_is_told_and_its_name_never_given_again(store: FolderStore) -> None:
    made = _publish(store, "a")
    tombstone.bury(store, made.ref, made.digest, "wrong labels")
    with pytest.raises(ArtifactError, match=r"v1 was removed by uid-\d+ on 20.*: wrong labels"):
        resolve(store, "dataset:data:v1")
    with pytest.raises(ArtifactError, match="was removed by"):
        _publish(store, "a", "v1")
    assert _publish(store, "a").ref.version == "v2", "the same content again is another version"
    assert resolve(store, "dataset:data:latest").ref.version == "v2"
    with pytest.raises(ArtifactError, match="was removed by"):
        tombstone.bury(store, made.ref, made.digest, "again")


def test_latest_is_the_newest_that_stands(store: FolderStore) -> None:
    _publish(store, "a")
    second = _publish(store, "b")
    tombstone.bury(store, second.ref, second.digest, "broken")
    assert resolve(store, "dataset:data:latest").ref.version == "v1"
    assert [str(ref) for ref in standing(store)] == ["dataset:data:v1"]


def test_a_version_with_an_alias_is_not_removed(store: FolderStore) -> None:
    made = _publish(store, "a")
    alias.point(store, made.ref, "prod")
    with pytest.raises(ArtifactError, match="prod leads to it"):
        tombstone.bury(store, made.ref, made.digest, "old")
    assert in_child(lambda: resolve(store, "dataset:data:prod")) == 0


def test_by_the_command_line(tmp_path: Path) -> None:
    """Tag, use by alias in a run, refuse, remove, compare."""
    project = Project(
        tmp_path / "p",
        "from mirage import artifact\nartifact.File.save(b'made', name='made')\n",
        files={"configs/a.yaml": "data: {train: 'dataset:raw:best'}\n"},
    )
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    (folder / "changed").write_text("one")
    (folder / "gone").write_text("gone")
    project.mirage("artifact", "add", str(folder), "--as", "dataset:raw", "--description", "raw data")
    (folder / "changed").write_text("another")
    (folder / "gone").unlink()
    (folder / "new").write_text("new")
    project.mirage("artifact", "add", str(folder), "--as", "dataset:raw")
    told = project.asked("artifact", "tag", "dataset:raw:v1", "best", "--reason", "the only one")
    assert told["version"] == "v1"
    assert [move["reason"] for move in told["history"]] == ["the only one"]

    made = project.run()
    assert made["inputs"][0]["id"] == "dataset:raw:v1"
    names = [
        item["name"]
        for item in project.record(made["run_id"])["predicate"]["buildDefinition"]["resolvedDependencies"]
    ]
    assert "input:dataset:raw:best" in names, "the record keeps the alias too"

    listed = {item["id"]: item for item in project.asked("artifact", "ls")["artifacts"]}
    assert listed["dataset:raw:v1"]["aliases"] == ["best"]
    assert "raw data" in project.mirage("artifact", "ls")
    assert "best" in project.mirage("artifact", "show", "dataset:raw:v1")
    assert project.asked("artifact", "show", "dataset:raw:best")["history"][0]["version"] == "v1"

    found = project.asked("artifact", "diff", "dataset:raw:v1", "dataset:raw:v2")
    assert {change["path"]: change["how"] for change in found["files"]} == {
        "changed": "changed",
        "gone": "removed",
        "new": "added",
    }
    assert found["counts"] == {"added": 1, "removed": 1, "changed": 1, "unchanged": 1}
    assert {"name": "metadata.description", "a": "raw data", "b": None} in found["about"]
    lines = project.mirage("artifact", "diff", "dataset:raw:v1", "dataset:raw:v2").splitlines()
    assert "~ changed  3 B -> 7 B" in lines
    assert project.mirage("artifact", "lineage", "dataset:raw:v1") == project.mirage(
        "lineage", "dataset:raw:v1"
    )

    err = project.refused("artifact", "rm", "dataset:raw:v1", "--reason", "x", code=6, program="mirage")
    assert f"{made['run_id']} used it" in err
    err = project.refused("artifact", "rm", "file:made:v1", "--reason", "x", code=6, program="mirage")
    assert f"{made['run_id']} made it" in err
    err = project.refused("artifact", "rm", "dataset:raw:best", "--reason", "x", code=6, program="mirage")
    assert "is an alias of dataset:raw:v1" in err
    project.mirage("artifact", "rm", "file:made:v1", "--reason", "a trial", "--force")
    project.mirage("artifact", "rm", "dataset:raw:v2", "--reason", "wrong labels")
    assert [item["id"] for item in project.asked("artifact", "ls")["artifacts"]] == ["dataset:raw:v1"]
    err = project.refused("artifact", "show", "dataset:raw:v2", code=6, program="mirage")
    assert "was removed by" in err
    assert "wrong labels" in err
