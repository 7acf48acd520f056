"""Questions about more than one run, on made-up records: differences, ways of data, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from orchestrator import canonical
from orchestrator.artifacts import by_hand
from orchestrator.artifacts.version import Manifest, publish
from orchestrator.canonical import Json
from orchestrator.catalog import Catalog, Row, ask, marks
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.journal import RunFolders
from orchestrator.questions import explain, lineage
from orchestrator.questions.diff import compare
from orchestrator.questions.explain import Candidate, Keys
from orchestrator.questions.lineage import Graph, Walk
from orchestrator.where import parse
from tests.record_tools import HARDWARE, Records, run_id
from tests.test_catalog_index import Heard


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "store")


@pytest.fixture
def catalog(records: Records, tmp_path: Path) -> Catalog:
    return Catalog(records.store, RunFolders(tmp_path / "runs", tmp_path / "open"), Heard())


# diff


def sections(records: Records, catalog: Catalog, one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    records.add(run_id(1), **one)
    records.add(run_id(2), **two)
    found = compare(catalog.find(run_id(1)), catalog.find(run_id(2)), records.folder)
    return {each.title: {c.name: c.values() for c in each.changes} for each in found}


def test_equal_runs_do_not_differ(records: Records, catalog: Catalog) -> None:
    one = {
        "config": {"a": 1},
        "metrics": {"x": 0.5},
        "outputs": ["model:m:v1"],
        "packages": [("numpy", "1.0")],
    }
    assert sections(records, catalog, one, one) == {}


def test_packages_are_added_removed_and_changed(records: Records, catalog: Catalog) -> None:
    one = {"packages": [("gone", "1"), ("numpy", "1.26.3"), ("same", "2")]}
    two = {"packages": [("new", "3"), ("numpy", "1.26.4"), ("same", "2")]}
    found = sections(records, catalog, one, two)
    assert found == {"packages": {"gone": ("1", None), "numpy": ("1.26.3", "1.26.4"), "new": (None, "3")}}


def test_what_differs_comes_in_the_order_in_which_it_matters(records: Records, catalog: Catalog) -> None:
    assert isinstance(HARDWARE, dict)
    hardware: Json = {**HARDWARE, "memory": 1}
    two = {
        "commit": "a" * 40, "tree": "b" * 40, "packages": [("numpy", "2")], "config": {"lr": True}, "network": "host",
        "base": of_bytes(b"other"), "inputs": ["dataset:d:v2"], "hardware": hardware, "status": "failed",
        "reason": "exit code 1", "metrics": {"x": None}, "outputs": ["model:m:v2"],
    }  # fmt: skip
    one = {"config": {"lr": 1}, "metrics": {"x": 0.5}, "outputs": ["model:m:v1"], "inputs": ["dataset:d:v1"]}
    found = sections(records, catalog, one, two)
    assert list(found) == [
        "commits", "files", "packages", "config", "settings", "base", "inputs", "hardware", "sandbox", "result",
        "metrics", "outputs",
    ]  # fmt: skip
    assert found["config"] == {"lr": (1, True)}
    assert found["settings"] == {"network": ("none", "host")}
    assert found["base"] == {"digest": (hex_of(of_bytes(b"base")), hex_of(of_bytes(b"other")))}
    assert set(found["inputs"]) == {"dataset:d:v1", "dataset:d:v2"}
    assert found["hardware"] == {"memory": (8 << 30, 1)}
    assert found["result"]["status"] == ("succeeded", "failed")
    assert found["metrics"] == {"x": (0.5, None)}
    assert found["outputs"]["model:m"][0].startswith("model:m:v1 sha256:")


def test_a_missing_manifest_of_the_environment_is_told(records: Records, catalog: Catalog) -> None:
    records.add(run_id(1), packages=[("numpy", "1")])
    records.add(run_id(2), packages=[("numpy", "2")])
    one, two = catalog.find(run_id(1)), catalog.find(run_id(2))
    digest = two.byproduct("environment.json")
    assert digest is not None
    records.blob(digest).unlink()
    (section,) = compare(one, two, records.folder)
    assert section.note and "cannot be read" in section.note
    assert [each.name for each in section.changes] == ["lock digest"]


# lineage


def version(records: Records, name: str, run: str | None) -> str:
    """Publish an artifact as a run, or by hand."""
    tree = records.store.put(b"")
    manifest = Manifest("dataset", name, "json", None, tree, 0, 0, "{}")
    return str(publish(records.store, manifest, None, run).ref)


def graph(records: Records, catalog: Catalog, root: str, *, up: bool = True, down: bool = True) -> Graph:
    def walk(index: Any) -> Graph:
        known = Walk(
            records.store, lineage.finder(catalog.find), lambda id: ask.runs_with(index, "inputs", id)
        )
        return known.around(root, up=up, down=down)

    return catalog.asking(walk)


def test_a_diamond_is_drawn_once(records: Records, catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("1")
    by_hand.add(records.store, tmp_path / "raw.csv", kind="file", name="raw", version=None)
    left, right = version(records, "left", run_id(1)), version(records, "right", run_id(2))
    last = version(records, "last", run_id(3))
    records.add(run_id(1), inputs=["file:raw:v1"], outputs=[left])
    records.add(run_id(2), inputs=["file:raw:v1"], outputs=[right])
    records.add(run_id(3), inputs=[left, right], outputs=[last])
    found = graph(records, catalog, last)
    assert len(found.nodes) == 7 and len(found.up) == 7 and found.down == ()
    assert "added by hand" in found.node("file:raw:v1").about
    lines = lineage.tree(found, up=True)
    assert lines[0].startswith(last) and sum("file:raw:v1" in line for line in lines) == 2
    below = graph(records, catalog, "file:raw:latest", up=False)
    assert {each.target for each in below.down} == {run_id(1), run_id(2), run_id(3), left, right, last}
    drawn = lineage.tree(below, up=False)
    assert sum(run_id(3) in line for line in drawn) == 2 and sum("see above" in line for line in drawn) == 1
    dot = lineage.to_dot(below)
    assert dot.count("->") == len(below.down) and dot.startswith("digraph") and dot.endswith("}")


def test_a_record_that_says_it_made_its_own_input_ends(records: Records, catalog: Catalog) -> None:
    name = version(records, "loop", run_id(1))
    records.add(run_id(1), inputs=[name], outputs=[name])
    for root in (name, run_id(1)):
        found = graph(records, catalog, root)
        assert {node.id for node in found.nodes} == {name, run_id(1)}
        assert len(lineage.tree(found, up=True)) == len(lineage.tree(found, up=False)) == 3


def test_a_long_way_is_followed(records: Records, catalog: Catalog) -> None:
    names = [version(records, f"n{number}", run_id(number)) for number in range(300)]
    for number in range(1, 300):
        records.add(run_id(number), inputs=[names[number - 1]], outputs=[names[number]])
    found = graph(records, catalog, names[-1])
    assert len(found.up) == 599  # the first run left no record
    assert found.node(run_id(0)).about == "its record is not in the store"
    assert len(lineage.tree(found, up=True)) == 600
    assert len(graph(records, catalog, names[0]).down) == 598


def test_what_is_gone_from_the_store_is_told(records: Records, catalog: Catalog) -> None:
    records.add(run_id(1), inputs=["dataset:gone:v3"])
    found = graph(records, catalog, run_id(1))
    assert found.node("dataset:gone:v3").about == "no longer in the store"


def test_names_cannot_break_the_graph_language() -> None:
    node = lineage.Node('a"b\\', "run", None, 'x"]; evil [label="')
    dot = lineage.to_dot(Graph(node.id, (node,), (), ()))
    assert r"\"]; evil [label=\"" in dot and r"a\"b\\" in dot


# explain


def key_of(records: Records, kind: str, manifest: dict[str, Json], *results: Digest) -> Digest:
    """Keep a key's manifest as the library does."""
    data = canonical.encode(manifest)
    key = of_bytes(data)
    records.store.create(f"keys/{kind}/{hex_of(key)}/manifest.json", data)
    for result in results:
        records.store.create(f"keys/{kind}/{hex_of(key)}/results/{hex_of(result)}.json", b"{}")
    return key


def env(python: str, **packages: str) -> dict[str, Json]:
    listed: list[Json] = [{"name": name, "version": version} for name, version in packages.items()]
    return {
        "schema": "e",
        "base": "b",
        "python": python,
        "lock": {"kind": "requirements", "packages": listed},
    }


def by_runs(catalog: Catalog) -> tuple[Callable[[str, str], Any], Callable[[str], list[Candidate]]]:
    def first_with(kind: str, key: str) -> Any:
        found = catalog.asking(lambda index: ask.runs_with(index, f"{kind}_key", key))
        return found[0] if found else None

    def earlier(kind: str) -> list[Candidate]:
        rows = catalog.asking(lambda index: ask.newest_values(index, f"{kind}_key", 200))
        return [Candidate(Digest(value), first) for value, first in rows]

    return first_with, earlier


def test_the_nearest_key_is_the_one_with_the_fewest_differences(records: Records, catalog: Catalog) -> None:
    far = key_of(records, "env", env("3.9", numpy="1", torch="1", gone="1"))
    near = key_of(records, "env", env("3.11", numpy="1.26.3", torch="2"))
    later = key_of(records, "env", env("3.11", numpy="1.26.4", torch="2", more="1"))
    mine = key_of(records, "env", env("3.11", numpy="1.26.4", torch="2"), of_bytes(b"one"), of_bytes(b"two"))
    for number, key in enumerate((far, near, mine, later)):
        records.add(run_id(number), env_key=key)
    keys = Keys((records.store,), lineage.finder(catalog.find))
    env_of_mine, image, _ = explain.of_run(catalog.find(run_id(2)), keys, *by_runs(catalog))
    assert env_of_mine.state == "miss" and env_of_mine.nearest is not None
    assert env_of_mine.nearest.key == near and env_of_mine.nearest.run == run_id(
        1
    )  # `later` was not there yet
    (difference,) = env_of_mine.nearest.differences
    assert difference.component == "lock numpy"
    assert '"1.26.3"' in str(difference.before) and '"1.26.4"' in str(difference.now)
    assert set(env_of_mine.led_to) == {of_bytes(b"one"), of_bytes(b"two")}  # drift
    assert (image.state, image.first_run) == ("hit", run_id(0))
    (first, *_) = explain.of_run(catalog.find(run_id(0)), keys, *by_runs(catalog))
    assert (first.state, first.nearest) == ("miss", None)


def test_a_manifest_that_is_not_what_its_key_says_is_not_believed(records: Records, catalog: Catalog) -> None:
    good = key_of(records, "env", env("3.9", numpy="1"))
    mine = key_of(records, "env", env("3.11", numpy="1"))
    path = records.folder / "keys" / "env" / hex_of(good) / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(canonical.encode(env("3.11", numpy="1", x="1")))
    records.add(run_id(1), env_key=good)
    records.add(run_id(2), env_key=mine)
    keys = Keys((records.store,), lineage.finder(catalog.find))
    found, _, _ = explain.of_run(catalog.find(run_id(2)), keys, *by_runs(catalog))
    assert found.state == "miss" and found.nearest is None


def test_kept_keys_are_listed_the_newest_first_and_strangers_passed_over(records: Records) -> None:
    one = key_of(records, "env", env("3.9"))
    (records.folder / "keys" / "env" / "not-a-digest").mkdir()
    keys = Keys((records.store,), lambda _: None)
    assert [each.key for each in keys.kept("env")] == [one]
    assert list(keys.kept("image")) == [] and list(keys.kept("run")) == []


# A store that is not a folder


class Remote:
    """A store as a bucket is one: no folders to look at, only its keys."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.location = "remote://bucket"

    def has(self, digest: Digest) -> bool:
        return bool(self._inner.has(digest))

    def open(self, digest: Digest) -> BinaryIO:
        found: BinaryIO = self._inner.open(digest)
        return found

    def read(self, key: str) -> bytes | None:
        found: bytes | None = self._inner.read(key)
        return found

    def create(self, key: str, data: bytes) -> bool:
        return bool(self._inner.create(key, data))

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(self._inner.keys(prefix))


def test_a_store_that_is_not_a_folder_is_asked_the_same(records: Records, tmp_path: Path) -> None:
    remote: Any = Remote(records.store)
    heard = Heard()

    def ids(question: str | None = None) -> list[str]:
        catalog = Catalog(remote, RunFolders(tmp_path / "runs", tmp_path / "open"), heard)
        return [each.run_id for each in catalog.select(None if question is None else parse(question))]

    assert ids() == []
    for number in (1, 50_000):
        records.add(run_id(number), metrics={"x": number})
    assert ids("metrics.x > 1") == [run_id(50_000)] and ids() == [run_id(50_000), run_id(1)]
    records.add(run_id(2))
    marks.add(remote, run_id(2), "tag", ["late"])
    assert ids("tags = late") == [run_id(2)]
    records.record_path(run_id(1)).unlink()
    assert ids() == [run_id(50_000), run_id(2)]
    catalog = Catalog(remote, RunFolders(tmp_path / "runs", tmp_path / "open"), heard)
    assert catalog.find("latest").run_id == run_id(50_000)
    assert isinstance(catalog.find(run_id(2)[:13]), Row)
    assert heard.warnings == []
