"""The library: what was built before, here or elsewhere, and whether its bytes are still what they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import ImageError, StoreError
from orchestrator.image.library import Library, cache_folder
from orchestrator.store.folder import FolderStore

KEY = of_bytes(b"key")


def machine(folder: Path, name: str) -> Library:
    """A machine of its own on a shared bank."""
    return Library(FolderStore.open_at(folder / name), FolderStore.open_at(folder / "bank"))


def result(data: bytes, created: str) -> dict[str, Json]:
    return {"digest": of_bytes(data), "created": created}


def keep_layer(place: Library, data: bytes) -> Digest:
    with place.writer() as writer:
        writer.write(data)
        digest, _ = writer.commit()
    return digest


def blob(folder: Path, digest: Digest) -> Path:
    return folder / "blobs" / "sha256" / hex_of(digest)[:2] / hex_of(digest)


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    place = machine(tmp_path, "a")
    assert place.find("env", KEY) is None
    assert place.ledger("env", KEY) == []
    assert not place.has(KEY)


def test_what_a_key_led_to_is_known_on_every_machine_with_the_manifest_of_the_key(tmp_path: Path) -> None:
    kept = result(b"one", "1")
    assert machine(tmp_path, "a").keep("env", KEY, b"{}", kept) == ""
    assert machine(tmp_path, "b").find("env", KEY) == kept
    assert machine(tmp_path, "b").find("image", KEY) is None
    assert (tmp_path / "bank/keys/env" / hex_of(KEY) / "manifest.json").read_bytes() == b"{}"


def test_the_same_result_again_is_no_drift_and_another_one_is(tmp_path: Path) -> None:
    a, b = machine(tmp_path, "a"), machine(tmp_path, "b")
    assert not a.keep("env", KEY, b"{}", result(b"one", "1"))
    assert not a.keep("env", KEY, b"{}", result(b"one", "2"))
    assert b.keep("env", KEY, b"{}", result(b"two", "3"))
    assert [entry["digest"] for entry in a.ledger("env", KEY)] == [of_bytes(b"one"), of_bytes(b"two")]
    assert [entry["digest"] for entry in b.ledger("env", KEY)] == [of_bytes(b"one"), of_bytes(b"two")]
    assert a.find("env", KEY) == result(b"one", "1")
    # this machine goes on with its own layer, which it has; the drift was told
    assert b.find("env", KEY) == result(b"two", "3")


def test_drift_is_seen_where_the_other_result_is_in_the_store_only(tmp_path: Path) -> None:
    fresh = Library(FolderStore.open_at(tmp_path / "c"), FolderStore.open_at(tmp_path / "own"))
    fresh.keep("env", KEY, b"{}", result(b"one", "1"))
    machine(tmp_path, "a").keep("env", KEY, b"{}", result(b"two", "2"))
    moved = Library(FolderStore.open_at(tmp_path / "c"), FolderStore.open_at(tmp_path / "bank"))
    assert moved.keep("env", KEY, b"{}", result(b"one", "3"))


@pytest.mark.parametrize("damage", [b"", b"not json", b"[]", b"{}", canonical.encode(result(b"other", "1"))])
def test_a_damaged_result_is_an_error_that_names_the_file(tmp_path: Path, damage: bytes) -> None:
    place = machine(tmp_path, "a")
    place.keep("env", KEY, b"{}", result(b"one", "1"))
    (path,) = (tmp_path / "a/keys/env").glob("*/results/*")
    path.chmod(0o644)
    path.write_bytes(damage)
    with pytest.raises(ImageError, match="is damaged") as caught:
        place.find("env", KEY)
    assert path.name in caught.value.message
    assert "remove that file" in (caught.value.hint or "")


def test_a_banked_layer_is_read_on_another_machine(tmp_path: Path) -> None:
    data = bytes(3 << 20) + b"end"
    digest = keep_layer(machine(tmp_path, "a"), data)
    assert not machine(tmp_path, "b").has(digest)
    machine(tmp_path, "a").bank(digest)
    assert machine(tmp_path, "b").has(digest)
    assert b"".join(machine(tmp_path, "b").read(digest)) == data


def test_a_layer_with_a_flipped_byte_is_found_out_before_its_end(tmp_path: Path) -> None:
    place = machine(tmp_path, "a")
    digest = keep_layer(place, b"x" * 5000)
    path = blob(tmp_path / "a", digest)
    stamp = path.stat().st_mtime_ns  # a disk that forgets changes no time stamp
    path.chmod(0o644)
    path.write_bytes(b"x" * 4999 + b"y")
    os.utime(path, ns=(stamp, stamp))
    with pytest.raises(ImageError, match="is damaged"):
        list(place.read(digest))


def test_a_layer_that_is_nowhere_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        list(machine(tmp_path, "a").read(KEY))


def test_a_layer_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    place = machine(tmp_path, "a")
    with place.writer() as writer:
        writer.write(b"half")
    assert not place.has(of_bytes(b"half"))


def test_small_bytes_are_kept_in_both_places(tmp_path: Path) -> None:
    digest = machine(tmp_path, "a").put(b"small")
    assert (
        blob(tmp_path / "a", digest).read_bytes() == blob(tmp_path / "bank", digest).read_bytes() == b"small"
    )


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MIRAGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mirage"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mirage"
    monkeypatch.setenv("MIRAGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_two_caches_have_two_identities_and_one_keeps_its_own(tmp_path: Path) -> None:
    a, b = machine(tmp_path, "a"), machine(tmp_path, "b")
    assert a.cache_id == machine(tmp_path, "a").cache_id != b.cache_id
    assert a.lock_path("x").parent.is_dir()
    assert a.lock_path("x") != b.lock_path("x")
