"""Images as bytes, and bringing them into a real engine: nothing sent twice, and nothing believed."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.digest import Digest, of_bytes
from orchestrator.engine_values import LoadedImage
from orchestrator.errors import EngineError, ImageError
from orchestrator.image import layer, loading, oci
from orchestrator.image.layer import Entry
from orchestrator.image.loading import Parent
from orchestrator.image.oci import Image, Layer, Platform, RunConfig
from tests.image_tools import CountingEngine, engine

CREATED = 1_700_000_000
BIG = 3 << 20


class Shelf:
    """Layers in memory, made unlike any that the engine saw before."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.tags: list[str] = []
        self.salt = secrets.token_hex(8)

    def layer(self, name: str, size: int = 100) -> Layer:
        data = layer.to_bytes([Entry(name.encode(), "file", data=(self.salt + name).encode() + bytes(size))])
        digest = of_bytes(data)
        self.blobs[digest] = data
        return Layer(digest, len(data), f"test {name}")

    def image(self, *layers: Layer, **labels: str) -> Image:
        platform = Platform("linux", engine().info().architecture)
        config = RunConfig(env=(("A", "1"),), labels=tuple(labels.items()))
        return oci.build(platform, layers, config, CREATED)

    def read(self, digest: Digest) -> Iterator[bytes]:
        data = self.blobs[digest]
        for start in range(0, len(data), 1 << 16):
            yield data[start : start + (1 << 16)]

    def tag(self, image: Image) -> str:
        self.tags.append(loading.tag_of("test", image))
        return self.tags[-1]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    yield made
    for tag in made.tags:
        engine().remove_image(tag)


def members(
    image: Image, tag: str, omit: frozenset[Digest], read: Callable[[Digest], Iterator[bytes]]
) -> dict[str, bytes]:
    data = b"".join(oci.archive(image, tag, omit=omit, read=read))
    assert len(data) % 512 == 0
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            body = archive.extractfile(member)
            assert body is not None
            assert member.name not in found
            found[member.name] = body.read()
    return found


def blob(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def test_an_image_is_known_by_the_digests_of_its_own_bytes() -> None:
    lower, upper = (Layer(of_bytes(name), 10 + len(name), f"made {name!r}") for name in (b"a", b"bc"))
    image = oci.build(
        Platform("linux", "arm64"),
        (lower, upper),
        RunConfig(
            env=(("PATH", "/bin"), ("EMPTY", "")),
            cmd=("python", "-m", "x"),
            working_dir="/w",
            user="1:2",
            labels=(("b", "2"), ("a", "1")),
        ),
        CREATED,
    )
    config = json.loads(image.config)
    assert config == {
        "architecture": "arm64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {
            "Env": ["PATH=/bin", "EMPTY="],
            "Cmd": ["python", "-m", "x"],
            "WorkingDir": "/w",
            "User": "1:2",
            "Labels": {"a": "1", "b": "2"},
        },
        "rootfs": {"type": "layers", "diff_ids": [lower.digest, upper.digest]},
        "history": [
            {"created": "2023-11-14T22:13:20Z", "created_by": "made b'a'"},
            {"created": "2023-11-14T22:13:20Z", "created_by": "made b'bc'"},
        ],
    }
    manifest = json.loads(image.manifest)
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:" + hashlib.sha256(image.config).hexdigest(),
        "size": len(image.config),
    }
    assert [(item["digest"], item["size"]) for item in manifest["layers"]] == [
        (lower.digest, 11),
        (upper.digest, 12),
    ]
    assert image.digest == "sha256:" + hashlib.sha256(image.manifest).hexdigest()
    assert image.config_digest == manifest["config"]["digest"]
    assert image.diff_ids == (lower.digest, upper.digest)
    assert image.size == 23


def test_an_image_reads_back_as_what_it_was(shelf: Shelf) -> None:
    image = shelf.image(shelf.layer("a"), shelf.layer("b"), x="1")
    assert oci.parse(image.config, image.manifest) == image


@pytest.mark.parametrize(
    "damage",
    [
        lambda config, manifest: (b"{}", manifest),
        lambda config, manifest: (config, b"{}"),
        lambda config, manifest: (b"[1]", b"[1]"),
        lambda config, manifest: (b"not json", manifest),
        lambda config, manifest: (config.replace(b"2023", b"2024"), manifest),
        lambda config, manifest: (config, manifest.replace(b'"size":2', b'"size":"x')),
        lambda config, manifest: (config, manifest.replace(b"sha256:", b"sha257:")),
    ],
)
def test_bytes_that_are_no_image_or_of_two_images_are_refused(
    shelf: Shelf, damage: Callable[[bytes, bytes], tuple[bytes, bytes]]
) -> None:
    image = shelf.image(shelf.layer("a", 20_000 - 1536 + 512))
    damaged = damage(image.config, image.manifest)
    assert damaged != (image.config, image.manifest)
    with pytest.raises(ValueError):
        oci.parse(*damaged)


def test_the_archive_is_an_image_layout_that_also_classic_stores_read(shelf: Shelf) -> None:
    lower, upper = shelf.layer("a"), shelf.layer("b")
    image = shelf.image(lower, upper)
    found = members(image, "mirage/test:abc", frozenset(), shelf.read)
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index: dict[str, Any] = json.loads(found["index.json"])
    (entry,) = index["manifests"]
    assert (entry["digest"], entry["size"]) == (image.digest, len(image.manifest))
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/mirage/test:abc"
    assert found[blob(image.digest)] == image.manifest
    assert found[blob(image.config_digest)] == image.config
    assert json.loads(found["manifest.json"]) == [
        {
            "Config": blob(image.config_digest),
            "RepoTags": ["mirage/test:abc"],
            "Layers": [blob(lower.digest), blob(upper.digest)],
        }
    ]
    for name, data in found.items():
        if name.startswith("blobs/"):
            assert name == blob(of_bytes(data))


def test_what_is_omitted_is_truly_absent_and_still_listed(shelf: Shelf) -> None:
    lower, upper = shelf.layer("a"), shelf.layer("b")
    image = shelf.image(lower, upper)
    found = members(image, "mirage/test:abc", frozenset({lower.digest}), shelf.read)
    assert blob(lower.digest) not in found
    assert found[blob(upper.digest)] == shelf.blobs[upper.digest]
    assert len(json.loads(found["manifest.json"])[0]["Layers"]) == 2


def test_a_layer_that_stands_twice_is_sent_once_and_loads(shelf: Shelf) -> None:
    one = shelf.layer("a")
    image = shelf.image(one, shelf.layer("b"), one)
    members(image, "mirage/test:abc", frozenset(), shelf.read)
    assert loading.ensure(engine(), image, shelf.tag(image), (), shelf.read) in (
        image.digest,
        image.config_digest,
    )


def test_the_engine_takes_the_image_and_calls_it_by_our_digest(shelf: Shelf) -> None:
    image = shelf.image(shelf.layer("a"), shelf.layer("b"))
    tag = shelf.tag(image)
    assert loading.find(engine(), tag, image) is None
    engine_id = loading.ensure(engine(), image, tag, (), shelf.read)
    found = engine().image(tag)
    assert found is not None
    classic = engine().info().image_store == "classic"
    assert engine_id == found.id == (image.config_digest if classic else image.digest)
    assert found.diff_ids == image.diff_ids
    assert found.env == ("A=1",)


def test_an_image_that_is_there_is_not_sent_again(shelf: Shelf) -> None:
    image = shelf.image(shelf.layer("a"))
    counting = CountingEngine()
    first = loading.ensure(counting, image, shelf.tag(image), (), shelf.read)
    assert loading.ensure(counting, image, shelf.tags[0], (), shelf.read) == first
    assert len(counting.loads) == 1


def test_the_layers_of_a_parent_are_not_sent_and_those_of_the_largest_parent_first(shelf: Shelf) -> None:
    lower, middle, upper = shelf.layer("a", BIG), shelf.layer("b", BIG), shelf.layer("c")
    base, between, image = shelf.image(lower), shelf.image(lower, middle), shelf.image(lower, middle, upper)
    counting = CountingEngine()
    parents = [Parent(shelf.tag(each), each) for each in (between, base)]
    for parent in reversed(parents):
        loading.ensure(counting, parent.image, parent.tag, parents[1:], shelf.read)
    loading.ensure(counting, image, shelf.tag(image), parents, shelf.read)
    whole, one, small = counting.loads
    assert BIG < whole < BIG + 20_000
    assert BIG < one < BIG + 20_000
    assert small < 20_000


def test_a_change_of_the_config_alone_sends_no_layer(shelf: Shelf) -> None:
    lower = shelf.layer("a", BIG)
    first, second = shelf.image(lower, v="1"), shelf.image(lower, v="2")
    counting = CountingEngine()
    loading.ensure(counting, first, shelf.tag(first), (), shelf.read)
    loading.ensure(counting, second, shelf.tag(second), (Parent(shelf.tags[0], first),), shelf.read)
    assert counting.loads[1] < 10_000


def test_a_parent_that_is_not_in_the_engine_is_sent_whole(shelf: Shelf) -> None:
    lower = shelf.layer("a", BIG)
    base, image = shelf.image(lower), shelf.image(lower, shelf.layer("b"))
    counting = CountingEngine()
    loading.ensure(counting, image, shelf.tag(image), (Parent(shelf.tag(base), base),), shelf.read)
    assert [load > BIG for load in counting.loads] == [True]


def test_an_image_that_shares_the_lower_layers_spares_sending_them(shelf: Shelf) -> None:
    lower, middle = shelf.layer("a", BIG), shelf.layer("b", BIG)
    other, image = shelf.image(lower, middle, shelf.layer("c")), shelf.image(lower, middle, shelf.layer("d"))
    loading.ensure(engine(), other, shelf.tag(other), (), shelf.read)
    counting = CountingEngine()
    beside = [(3, "mirage/test:never"), (3, shelf.tags[0]), (2, shelf.tags[0])]
    engine_id = loading.ensure(counting, image, shelf.tag(image), (), shelf.read, beside=beside)
    assert [load > 20_000 for load in counting.loads] == [False]
    assert loading.find(engine(), shelf.tags[1], image) == engine_id
    engine().remove_image(shelf.tags[0])
    assert loading.find(engine(), shelf.tags[1], image) == engine_id


def test_an_engine_that_calls_the_image_by_another_id_is_not_believed(shelf: Shelf) -> None:
    """It holds our layers under our tag, but what it would run is not what was built."""

    class Other(CountingEngine):
        def image(self, reference: str) -> LoadedImage | None:
            found = super().image(reference)
            return found and replace(found, id=of_bytes(b"another"))

    image, counting = shelf.image(shelf.layer("a")), Other()
    with pytest.raises(ImageError, match="holds another one") as caught:
        loading.ensure(counting, image, shelf.tag(image), (), shelf.read)
    assert image.digest in caught.value.message
    assert of_bytes(b"another") in caught.value.message
    assert "image store may be damaged" in (caught.value.hint or "")
    assert engine().image(shelf.tags[0]) is None, "nobody runs it by its tag"


def test_a_parent_with_other_layers_is_no_parent(shelf: Shelf) -> None:
    other = shelf.image(shelf.layer("x", BIG))
    loading.ensure(engine(), other, shelf.tag(other), (), shelf.read)
    lower = shelf.layer("a", BIG)
    image = shelf.image(lower, shelf.layer("b"))
    counting = CountingEngine()
    loading.ensure(counting, image, shelf.tag(image), (Parent(shelf.tags[0], other),), shelf.read)
    assert [load > BIG for load in counting.loads] == [True]


def test_a_parent_that_vanishes_between_the_look_and_the_load_is_sent_after_all(shelf: Shelf) -> None:
    lower = shelf.layer("a", BIG)
    base, image = shelf.image(lower), shelf.image(lower, shelf.layer("b"))
    loading.ensure(engine(), base, shelf.tag(base), (), shelf.read)
    counting = CountingEngine(before_load=lambda: engine().remove_image(shelf.tags[0]))
    engine_id = loading.ensure(counting, image, shelf.tag(image), (Parent(shelf.tags[0], base),), shelf.read)
    assert [load > BIG for load in counting.loads] == [False, True]
    assert loading.find(engine(), shelf.tags[1], image) == engine_id


def test_a_load_without_its_parent_is_detected_and_leaves_nothing_that_looks_whole(shelf: Shelf) -> None:
    lower = shelf.layer("a")
    image = shelf.image(lower, shelf.layer("b"))
    tag = shelf.tag(image)
    with suppress(EngineError):  # a containerd store may say nothing of it, depending on its version
        engine().load(oci.archive(image, tag, omit=frozenset({lower.digest}), read=shelf.read))
    assert loading.find(engine(), tag, image) is None
    loading.ensure(engine(), image, tag, (), shelf.read)
    assert loading.find(engine(), tag, image) is not None


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_a_flipped_byte_in_a_layer_is_detected_and_no_image_is_left(shelf: Shelf, where: str) -> None:
    layers = {"lower": shelf.layer("a"), "upper": shelf.layer("b")}
    image = shelf.image(*layers.values())
    digest = layers[where].digest
    good = shelf.blobs[digest]
    shelf.blobs[digest] = good[:520] + bytes([good[520] ^ 1]) + good[521:]
    with pytest.raises((EngineError, ImageError)):
        loading.ensure(engine(), image, shelf.tag(image), (), shelf.read)
    assert engine().image(shelf.tags[0]) is None
    shelf.blobs[digest] = good
    loading.ensure(engine(), image, shelf.tags[0], (), shelf.read)


def test_another_image_under_our_tag_is_replaced(shelf: Shelf) -> None:
    image, other = shelf.image(shelf.layer("a")), shelf.image(shelf.layer("b"))
    tag = shelf.tag(image)
    foreign = loading.ensure(engine(), other, shelf.tag(other), (), shelf.read)
    engine().tag(foreign, tag)
    assert loading.find(engine(), tag, image) is None
    assert loading.ensure(engine(), image, tag, (), shelf.read) != foreign
    assert loading.find(engine(), tag, image) is not None


def test_another_image_does_not_keep_our_tag_where_ours_cannot_be_loaded(shelf: Shelf) -> None:
    image, other = shelf.image(shelf.layer("a")), shelf.image(shelf.layer("b"))
    engine().tag(loading.ensure(engine(), other, shelf.tag(other), (), shelf.read), shelf.tag(image))
    (digest,) = image.diff_ids
    shelf.blobs[digest] = shelf.blobs[digest][::-1]
    with pytest.raises((EngineError, ImageError)):
        loading.ensure(engine(), image, shelf.tags[1], (), shelf.read)
    assert engine().image(shelf.tags[1]) is None
    assert engine().image(shelf.tags[0]) is not None


def test_an_image_of_the_same_layers_and_another_config_is_another_image(shelf: Shelf) -> None:
    one = shelf.layer("a")
    image, other = shelf.image(one, v="1"), shelf.image(one, v="2")
    loading.ensure(engine(), other, shelf.tag(other), (), shelf.read)
    assert loading.find(engine(), shelf.tags[0], image) is None
    found = engine().image(shelf.tags[0])
    assert found is not None
    assert loading.matches(found, other)
    assert not loading.matches(found, image)
    assert not loading.matches(replace(found, architecture=""), other)
    assert not loading.matches(replace(found, diff_ids=()), other)


def test_a_reader_that_fails_stops_the_load_and_says_why(shelf: Shelf) -> None:
    image = shelf.image(shelf.layer("a", BIG))

    def broken(digest: Digest) -> Iterator[bytes]:
        yield from list(shelf.read(digest))[:3]
        raise ImageError("the layer is damaged")

    with pytest.raises(ImageError, match="the layer is damaged"):
        loading.ensure(engine(), image, shelf.tag(image), (), broken)
    assert engine().image(shelf.tags[0]) is None


@pytest.mark.parametrize(
    "more",
    [
        {"Volumes": {"/data": {}}},
        {"Healthcheck": {"Test": ["CMD", "x"]}},
        {"Entrypoint": ["/x"]},
        {"OnBuild": ["x"]},
    ],
)
def test_an_image_that_asks_an_engine_for_more_than_ours_do_is_none(more: dict[str, Any]) -> None:
    """A volume, for instance, is a place on the engine's disk that a run could write to."""
    shelf = Shelf()
    image = shelf.image(shelf.layer("a"))
    config: Any = json.loads(image.config)
    config["config"] |= more
    data = canonical.encode(config)
    manifest: Any = json.loads(image.manifest)
    manifest["config"] |= {"digest": of_bytes(data), "size": len(data)}
    assert oci.parse(image.config, image.manifest) == replace(
        image, layers=oci.parse(image.config, image.manifest).layers
    )
    with pytest.raises(ValueError, match="did not write"):
        oci.parse(data, canonical.encode(manifest))
