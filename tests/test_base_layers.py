"""Layers out of an engine's saved image, in both forms that engines write, and what is no good."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from pathlib import Path

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ImageError
from orchestrator.image import saved_layers
from orchestrator.image.layer import Entry, to_bytes
from orchestrator.image.library import Library
from orchestrator.store.folder import FolderStore

LARGE = to_bytes([Entry(b"large", "file", data=random.Random(1).randbytes(3 << 20))])
SMALL = to_bytes([Entry(b"small", "file", data=b"x")])
EMPTY = b"\0" * 1024  # what a step that changes no file leaves behind
CONFIG = b'{"rootfs": {}}'


def library(folder: Path) -> Library:
    return Library(FolderStore.open_at(folder / "cache"), FolderStore.open_at(folder / "bank"))


def archive(files: dict[str, bytes], piece: int = 65_537) -> list[bytes]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as target:
        folder = tarfile.TarInfo("blobs")
        folder.type = tarfile.DIRTYPE
        target.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    data = packed.getvalue()
    return [data[at : at + piece] for at in range(0, len(data), piece)]


def blob(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


FORMS = {
    "docker 20.10": {
        "a/VERSION": b"1.0",
        "a/layer.tar": LARGE,
        "b/layer.tar": SMALL,
        "c/layer.tar": EMPTY,
        "d.json": CONFIG,
        "manifest.json": b"[]",
    },
    "an OCI layout with plain layers": {
        **{blob(data): data for data in (LARGE, SMALL, EMPTY, CONFIG)},
        "oci-layout": b"{}",
    },
    "an OCI layout with gzip": {
        blob(data): data for data in (CONFIG, *(gzip.compress(layer, 1) for layer in (LARGE, SMALL, EMPTY)))
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_found_by_diff_id_and_kept_uncompressed(tmp_path: Path, form: str) -> None:
    place = library(tmp_path)
    wanted = tuple(map(of_bytes, (LARGE, SMALL, EMPTY, SMALL)))
    sizes = saved_layers.take(archive(FORMS[form]), wanted, place, "x")
    assert sizes == {of_bytes(data): len(data) for data in (LARGE, SMALL, EMPTY)}
    assert b"".join(place.read(of_bytes(LARGE))) == LARGE
    assert not place.has(of_bytes(CONFIG))
    assert list((tmp_path / "cache" / "staging").iterdir()) == []


def refused(tmp_path: Path, files: dict[str, bytes], wanted: bytes = LARGE) -> str:
    with pytest.raises(ImageError) as caught:
        saved_layers.take(archive(files), (of_bytes(wanted),), library(tmp_path), "image x")
    return str(caught.value)


def test_a_layer_in_zstd_is_named_with_what_to_do(tmp_path: Path) -> None:
    said = refused(tmp_path, {"blobs/sha256/1": b"\x28\xb5\x2f\xfd" + b"\0" * 5000})
    assert "zstd" in said
    assert of_bytes(LARGE) in said
    assert "-> push that image with gzip" in said


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    assert of_bytes(LARGE) in refused(tmp_path, {"a/layer.tar": SMALL})


@pytest.mark.parametrize("keep", [20, 500_000])
def test_a_torn_gzip_layer_is_an_image_error(tmp_path: Path, keep: int) -> None:
    assert "damaged" in refused(tmp_path, {"blobs/sha256/1": gzip.compress(LARGE, 1)[:keep]})


def test_an_archive_that_breaks_off_is_an_image_error(tmp_path: Path) -> None:
    pieces = archive({"a/layer.tar": LARGE})[:10]
    with pytest.raises(ImageError, match="damaged"):
        saved_layers.take(pieces, (Digest(of_bytes(LARGE)),), library(tmp_path), "x")
