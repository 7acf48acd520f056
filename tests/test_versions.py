"""Versions: publishing, finding by id, and what is said of ids that are wrong and objects that are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.artifacts import version as module
from orchestrator.artifacts.version import (
    VersionExists,
    every,
    load,
    newest_number,
    publish,
    read_manifest,
    read_verified,
    resolve,
    verify_blob,
    versions,
)
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.reference import ArtifactRef
from orchestrator.store.folder import FolderStore
from tests.store_tools import blob, manifest


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


def _publish(store: FolderStore, text: str, version: str | None = None, **more: Any) -> str:
    return str(publish(store, manifest(store, text=text), version, more.pop("run", None), **more).ref.version)


def test_versions_count_up(store: FolderStore) -> None:
    assert [_publish(store, text) for text in "abcab"] == ["v1", "v2", "v3", "v4", "v5"]
    assert newest_number(store, "dataset", "data") == 5
    assert newest_number(store, "dataset", "other") == 0


def test_the_newest_content_again_is_no_new_version(store: FolderStore) -> None:
    assert [_publish(store, text) for text in "aabbba"] == ["v1", "v1", "v2", "v2", "v2", "v3"]


def test_a_published_version_is_what_load_reads(store: FolderStore) -> None:
    made = publish(store, manifest(store, text="a"), None, "run-1")
    assert load(store, made.ref) == made
    assert resolve(store, "dataset:data:v1") == made
    assert publish(store, manifest(store, text="a"), None, "run-2") == made, "it keeps its run and its time"


def test_an_attempt_made_again_finds_its_version(store: FolderStore) -> None:
    first = _publish(store, "a", run="r", attempt="r/0")
    for number in range(10):
        _publish(store, str(number), run="r", attempt=f"r/{number + 1}")
        _publish(store, f"other {number}", run="s")  # meanwhile, while nobody followed the first run
    folder = Path(store.location) / "refs" / "dataset" / "data"
    (folder / "v5.json").unlink()
    (folder / "v5.json").write_bytes(b"damaged, and none of ours")
    (folder / "v6.json").unlink()
    assert _publish(store, "a", run="r", attempt="r/0", again=True) == first
    assert _publish(store, "changed since", run="r", attempt="r/0", again=True) == first
    assert _publish(store, "a", run="r", attempt="r/99") == "v22", "another save of the same content is new"
    assert _publish(store, "a", run="s", attempt="s/0", again=True) == "v22"


def test_many_versions_are_counted_not_read(store: FolderStore) -> None:
    """A publish reads the newest pointer, not the manifests of those before it."""
    for number in range(5):
        _publish(store, str(number), run="r", attempt=f"r/{number}")
    reads: list[str] = []
    read, opened = store.read, store.open

    class Counting(FolderStore):
        def read(self, key: str) -> bytes | None:
            reads.append(key)
            return read(key)

        def open(self, digest: Digest) -> Any:
            reads.append(digest)
            return opened(digest)

    counting = Counting(Path(store.location))
    made = manifest(counting, text="new")
    reads.clear()
    publish(counting, made, None, "another run", attempt="another run/0")
    assert reads == ["refs/dataset/data/v5.json"]


def test_custom_versions_stand_beside_the_count(store: FolderStore) -> None:
    assert _publish(store, "a", "exp001") == "exp001"
    assert _publish(store, "b") == "v1"
    assert _publish(store, "a", "exp001") == "exp001"
    assert versions(store, "dataset", "data") == ["exp001", "v1"]


def test_a_taken_version_says_who_has_it_and_what_to_do(store: FolderStore) -> None:
    _publish(store, "a", "exp001", run="20261125-120000-abcdef")
    with pytest.raises(VersionExists) as caught:
        _publish(store, "b", "exp001")
    kept = of_bytes(manifest(store, text="b").encode())
    before = of_bytes(manifest(store, text="a").encode())
    assert "dataset:data:exp001 exists already with other content" in caught.value.message
    assert "20261125-120000-abcdef" in caught.value.message
    assert before in caught.value.message
    assert kept in caught.value.message
    assert store.has(kept), "the message promises that it is kept"
    assert "choose another version" in (caught.value.hint or "")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("taken,allowed", [("v1", True), ("v2", True), ("v3", True), ("v4", False)])
def test_a_vn_of_ones_own_is_taken_in_turn_only(store: FolderStore, taken: str, allowed: bool) -> None:
    for text in "ab":
        _publish(store, text)
    same = {"v1": "a", "v2": "b"}.get(taken, "c")
    if allowed:
        assert _publish(store, same, taken) == taken
        assert _publish(store, "new") == f"v{newest_number(store, 'dataset', 'data')}"
    else:
        with pytest.raises(ArtifactError, match="out of turn: the next automatic version is v3"):
            _publish(store, same, taken)


def test_latest_is_nobodys_version(store: FolderStore) -> None:
    with pytest.raises(ArtifactError, match="latest"):
        _publish(store, "a", "latest")
    store.create("refs/dataset/data/latest.json", b"{}")  # by hand, or by an older program
    _publish(store, "a")
    assert str(resolve(store, "dataset:data:latest").ref) == "dataset:data:v1"


def test_numbers_at_their_end_still_end(store: FolderStore) -> None:
    _publish(store, "a")
    pointer = store.read("refs/dataset/data/v1.json")
    assert pointer is not None
    store.create("refs/dataset/data/v999999999999999999.json", pointer)
    assert _publish(store, "b") == "v1000000000000000000"
    assert _publish(store, "c") == "v1000000000000000001"


@pytest.mark.parametrize("version", ["", "V1", "../v1", "v1/..", "a b", "ä", "x" * 129, ".v1", "v1\n"])
def test_a_version_outside_the_grammar_is_refused(store: FolderStore, version: str) -> None:
    with pytest.raises(ArtifactError):
        _publish(store, "a", version)


def test_latest_is_the_highest_number(store: FolderStore) -> None:
    for number in range(11):
        _publish(store, str(number))
    _publish(store, "custom", "zzz")
    assert str(resolve(store, "dataset:data:latest").ref) == "dataset:data:v11"
    assert versions(store, "dataset", "data")[-3:] == ["v9", "v10", "v11"]


def test_an_alias_leads_where_its_last_move_says(store: FolderStore) -> None:
    for text in "abc":
        _publish(store, text)
    for sequence, target in enumerate(["v1", "v3", "v2"]):
        store.create(
            f"alias/dataset/data/best/{sequence:016}.json", canonical.encode({"version": target, "by": "me"})
        )
    assert str(resolve(store, "dataset:data:best").ref) == "dataset:data:v2"


@pytest.mark.parametrize(
    "alias", [b"", b"{", b"[]", b"null", b'{"version":1}', b'{"version":"../../x"}', b"{}"]
)
def test_a_damaged_alias_is_told(store: FolderStore, alias: bytes) -> None:
    _publish(store, "a")
    store.create(f"alias/dataset/data/best/{0:016}.json", alias)
    with pytest.raises(StoreError, match="alias dataset:data:best"):
        resolve(store, "dataset:data:best")


def test_an_empty_store_says_so(store: FolderStore) -> None:
    with pytest.raises(ArtifactError) as caught:
        resolve(store, "dataset:data:v1")
    assert "no artifact dataset:data:v1" in caught.value.message
    assert "still empty" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "asked,hint",
    [
        ("dataset:processd_training_data:v1", "did you mean 'dataset:processed_training_data:v1'"),
        ("model:processed_training_data:v1", "did you mean 'dataset:processed_training_data:v1'"),
        ("dataset:processed_training_data:v7", "its versions are: exp001, v1"),
        ("dataset:processed_training_data:latset", "its versions are: exp001, v1"),
        ("report:zzz:q", "the store has: dataset:processed_training_data:exp001"),
    ],
)
def test_a_wrong_id_is_answered_with_the_nearest(store: FolderStore, asked: str, hint: str) -> None:
    name = "processed_training_data"
    publish(store, manifest(store, name, "a"), None, None)
    publish(store, manifest(store, name, "a"), "exp001", None)
    with pytest.raises(ArtifactError) as caught:
        resolve(store, asked)
    assert hint in (caught.value.hint or "")


def test_of_many_versions_the_newest_are_named(store: FolderStore) -> None:
    for number in range(12):
        _publish(store, str(number))
    with pytest.raises(ArtifactError) as caught:
        resolve(store, "dataset:data:v99")
    assert (caught.value.hint or "").endswith("v9, v10, v11, v12")


def test_every_lists_what_is_an_artifact(store: FolderStore) -> None:
    _publish(store, "a")
    _publish(store, "a", "exp")
    for key in ("refs/dataset/data/v2.txt", "refs/secret/data/v1.json", "refs/dataset/v1.json"):
        store.create(key, b"{}")
    assert every(store) == [ArtifactRef("dataset", "data", "exp"), ArtifactRef("dataset", "data", "v1")]
    assert versions(store, "dataset", "data") == ["exp", "v1"]


GOOD_POINTER = {"schema": "mirage-version/1", "digest": of_bytes(b""), "created": "2026", "run": None}
BAD_POINTERS = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b"\xff",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "no digest": b'{"created":"x"}',
    "bad digest": json.dumps({**GOOD_POINTER, "digest": "sha256:../../../etc/passwd"}).encode(),
    "digest a list": json.dumps({**GOOD_POINTER, "digest": []}).encode(),
    "no time": b'{"digest":"' + of_bytes(b"").encode() + b'"}',
}


@pytest.mark.parametrize("data", BAD_POINTERS.values(), ids=BAD_POINTERS.keys())
def test_a_damaged_pointer_is_told(store: FolderStore, data: bytes) -> None:
    store.create("refs/dataset/data/v1.json", data)
    with pytest.raises(StoreError, match=r"the pointer of dataset:data:v1 in the store .* is damaged"):
        resolve(store, "dataset:data:v1")
    with pytest.raises(StoreError, match="is damaged"):
        _publish(store, "a")
    with pytest.raises(StoreError, match="is damaged"):
        _publish(store, "a", "v1")


GOOD = json.loads(
    b'{"schema":"mirage-artifact/1","kind":"dataset","name":"data","format":"text","entry":"text","files":1,'
    b'"size":1,"metadata":{},"tree":"' + of_bytes(b"").encode() + b'"}'
)
BAD_MANIFESTS = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b"\xff",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "null": b"null",
    **{
        f"{field} {value!r}": json.dumps({**GOOD, field: value}).encode()
        for field, value in [
            ("schema", "mirage-artifact/2"),
            ("kind", "secret"),
            ("kind", ["dataset"]),
            ("name", "../x"),
            ("name", "other"),
            ("name", 3),
            ("format", "../x"),
            ("format", None),
            ("entry", "../../etc/passwd"),
            ("entry", "/etc/passwd"),
            ("entry", 3),
            ("tree", "sha256:x"),
            ("size", -1),
            ("size", 1.5),
            ("size", True),
            ("files", "1"),
            ("metadata", []),
            ("metadata", None),
            ("metadata", {"x": 2**60}),
            ("metadata", {"x": float("nan")}),
            ("metadata", {"x": "\ud800"}),
        ]
    },
    **{f"no {field}": json.dumps({k: v for k, v in GOOD.items() if k != field}).encode() for field in GOOD},
}


@pytest.mark.parametrize("data", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
def test_a_hostile_manifest_is_told(store: FolderStore, data: bytes) -> None:
    digest = store.put(data)
    store.create("refs/dataset/data/v1.json", json.dumps({**GOOD_POINTER, "digest": digest}).encode())
    with pytest.raises(StoreError):
        load(store, ArtifactRef("dataset", "data", "v1"))


def test_an_honest_manifest_is_read(store: FolderStore) -> None:
    assert read_manifest(store, store.put(json.dumps(GOOD).encode())).entry == "text"


def test_a_damaged_manifest_is_told_and_healed_by_publishing_again(
    store: FolderStore, tmp_path: Path
) -> None:
    made = publish(store, manifest(store, text="a"), None, None)
    path = blob(tmp_path / "store", made.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"files":1', b'"files":2'))
    with pytest.raises(StoreError, match="damaged bytes"):
        load(store, made.ref)
    assert not verify_blob(store, made.digest)
    assert publish(store, manifest(store, text="a"), None, None) == made
    assert load(store, made.ref) == made
    assert verify_blob(store, made.digest)


def test_a_missing_manifest_is_told(store: FolderStore, tmp_path: Path) -> None:
    made = publish(store, manifest(store, text="a"), None, None)
    blob(tmp_path / "store", made.digest).unlink()
    with pytest.raises(StoreError, match="is not in the store"):
        load(store, made.ref)
    assert not verify_blob(store, made.digest)


def test_a_blob_larger_than_it_may_be_is_not_read_into_memory(store: FolderStore) -> None:
    digest = store.put(b"x" * 1000)
    with pytest.raises(StoreError, match="larger than"):
        read_verified(store, digest, limit=999)
    assert read_verified(store, digest, limit=1000) == b"x" * 1000
    assert module.MAX_MANIFEST < module.MAX_TREE
