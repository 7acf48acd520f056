"""The bound of what a machine keeps of buckets: least lately used first, never what is mounted, owed or in use."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts import tree
from orchestrator.artifacts.inputs import InputCache
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import ConfigError, StoreError
from orchestrator.store import bounding
from orchestrator.store.folder import FolderStore
from orchestrator.store.s3 import S3Store
from orchestrator.upkeep.trees import needed as needed_here
from orchestrator.upkeep.trees import remove, unused
from tests.run_tools import Project
from tests.s3_tools import Server, credentials, environment, shared_bucket, store_at
from tests.store_tools import Heard

MIB = 1 << 20


@pytest.fixture(autouse=True)
def signed(seaweedfs: Server) -> Iterator[None]:
    with environment(credentials(seaweedfs.endpoint)):
        yield


def opened(server: Server, cache: Path, prefix: str) -> S3Store:
    return store_at(server.place(shared_bucket(server, cache), prefix), cache)


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def store(seaweedfs: Server, tmp_path: Path, prefix: str) -> S3Store:
    return opened(seaweedfs, tmp_path / "cache", prefix)


def published(store: S3Store, count: int, size: int = MIB) -> list[Digest]:
    digests = [store.put(os.urandom(size)) for _ in range(count)]
    store.push_owed()
    return digests


def aged(store: S3Store, digest: Digest, hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it had been used last so long ago: ctime cannot be set, so what reads it is told."""
    ages[store.local.blob_path(digest)] = time.time() - hours * 3600


ages: dict[Path, float] = {}


@pytest.fixture(autouse=True)
def known_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test cannot wait for hours, and ctime cannot be set."""
    ages.clear()
    found = bounding.copies

    def copies(stores: Path) -> Iterator[bounding.KeptBlob]:
        for each in found(stores):
            used = ages.get(each.path, each.used)
            yield bounding.KeptBlob(each.store, each.path, each.size, used, each.mounted)

    monkeypatch.setattr(bounding, "copies", copies)


def stores_of(store: S3Store) -> Path:
    return store.folder.parent


def test_the_least_lately_used_go_first_over_all_buckets(
    seaweedfs: Server, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened(seaweedfs, tmp_path / "cache", secrets.token_hex(6))
    first, second = published(store, 6), published(other, 6)
    for number, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        aged(store, mine, 20 - 2 * number, monkeypatch)
        aged(other, theirs, 21 - 2 * number, monkeypatch)
    monkeypatch.setenv(bounding.VARIABLE, "8m")
    assert bounding.keep_below(stores_of(store), bounding.LOOK_AFTER) == (5, 5 * MIB), "down to nine tenths"
    assert [store.local.has(each) for each in first] == [False] * 2 + [True] * 4
    assert [other.local.has(each) for each in second] == [False] * 3 + [True] * 3
    assert store.has(first[0]), "it is in the bucket"
    with store.open(first[0]) as source:
        assert of_bytes(source.read()) == first[0], "and comes back by itself"


def test_what_is_mounted_owed_or_just_used_stays(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted, fresh, old = published(store, 3)
    store.materialise(mounted, tmp_path / "mounted", executable=False)
    owed = store.put(os.urandom(MIB))
    for digest in (mounted, owed, old):
        aged(store, digest, 100, monkeypatch)
    monkeypatch.setenv(bounding.VARIABLE, "0")
    made = bounding.keep_below(stores_of(store), bounding.LOOK_AFTER)
    assert [store.local.has(each) for each in (mounted, owed, old, fresh)] == [True, True, False, True]
    assert made == (1, MIB)
    store.push_owed()
    assert bounding.keep_below(stores_of(store), bounding.LOOK_AFTER) == (1, MIB), "it was owed"


def test_a_fetch_makes_room_by_itself(
    seaweedfs: Server, store: S3Store, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = published(store, 8)
    monkeypatch.setattr(bounding, "LOOK_AFTER", 2 * MIB)
    monkeypatch.setenv(bounding.VARIABLE, "4m")
    other = opened(seaweedfs, tmp_path / "other", prefix)
    other.fetch(digests[:4])
    for digest in digests[:4]:
        assert other.local.has(digest), "what was used within the hour stays, also beyond the limit"
        aged(other, digest, 5, monkeypatch)
    other.fetch(digests[4:])
    assert [other.local.has(each) for each in digests] == [False] * 4 + [True] * 4


def test_what_is_used_is_told_to_the_disk_and_still_trusted(store: S3Store) -> None:
    (digest,) = published(store, 1)
    path = store.local.blob_path(digest)
    os.utime(path, (1, 1))
    before = path.stat()
    now = before.st_ctime + 3600
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now)
        store.fetch([digest])
    after = path.stat()
    assert after.st_atime == pytest.approx(now, abs=1)
    assert after.st_mtime_ns == before.st_mtime_ns and store.local.has(digest)


def test_a_copy_that_went_before_it_was_pushed_is_told_and_nothing_names_it(
    seaweedfs: Server, store: S3Store, tmp_path: Path, prefix: str
) -> None:
    digest = store.put(b"taken again in the moment in which it goes")
    store.local.blob_path(digest).unlink()
    with pytest.raises(StoreError, match="before it was pushed") as told:
        store.create("runs/2026-11/a/record.json", digest.encode())
    assert "run the command again" in str(told.value.hint)
    assert opened(seaweedfs, tmp_path / "other", prefix).read("runs/2026-11/a/record.json") is None
    assert store.put(b"taken again in the moment in which it goes") == digest
    assert store.create("runs/2026-11/a/record.json", digest.encode())


def test_a_limit_that_is_no_size_is_a_mistake_of_the_caller(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bounding.VARIABLE, "much")
    with pytest.raises(ConfigError, match="MIRAGE_CACHE_LIMIT=much is not a size"):
        bounding.limit(stores_of(store))
    monkeypatch.delenv(bounding.VARIABLE)
    assert bounding.limit(stores_of(store)) > 100 * MIB, "half of the disk"


def test_inputs_that_serve_no_run_go_and_those_of_open_runs_stay(tmp_path: Path) -> None:
    """By the command line, of a project with a bucket's copies beside it."""
    project = Project(tmp_path / "p", "print(1)\n")
    # The machine's own cache and images are nobody's to clear: with a new cache everything in the engine was just used.
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    words = ("gc", "--machine", "--older-than", "2h", "--json")
    cache, runs = project.folder / ".mirage/cache/trees", project.folder / ".mirage/runs"
    store = FolderStore.open_at(project.store)
    inputs = InputCache(store, cache, Heard())
    trees = []
    for name in ("old", "young", "needed"):
        entry = tree.TreeEntry("file", "f", True, MIB, store.put(os.urandom(MIB)))  # a copy: it is executable
        trees.append(store.put(tree.encode([entry])))
        laid = inputs.lay_out(trees[-1])
        if name != "young":
            os.utime(laid.with_suffix(".json"), (1, 1))
    run = "20261125-120000-abcdef"
    (runs / run).mkdir(parents=True)
    (runs / run / "trees.json").write_text(json.dumps([["dataset:d:v1", trees[2]]]))
    found = unused(cache, needed_here(runs, project.folder / ".mirage/open"), 0.0)
    assert [each.path.name for each in found] == [hex_of(each) for each in sorted((trees[0], trees[2]))]
    (project.folder / ".mirage/open").mkdir(exist_ok=True)
    (project.folder / ".mirage/open" / run).touch()
    told = json.loads(project.mirage(*words, "--dry-run", env=env))
    assert told["images"] == told["volumes"] == []
    assert told["trees"] == {"trees": 1, "bytes": MIB} and told["kept"]["limit"] > 0
    (late,) = (each for each in found if each.path.name == hex_of(trees[0]))
    inputs.lay_out(trees[0])
    assert not remove(late), "a run asked for it meanwhile"
    os.utime(cache / f"{hex_of(trees[0])}.json", (1, 1))
    told = json.loads(project.mirage(*words, "--yes", env=env))
    assert told["removed"]["trees"] == 1
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {hex_of(each) for each in trees[1:]}
    assert inputs.lay_out(trees[0]).is_dir(), "it is laid out anew"
