"""OCI documents: image config, manifest and the layout archive that every engine loads.

All bytes here are ours and canonical, so digests are known before an engine sees them. Sources: OCI
image-spec config.md, manifest.md, image-layout.md; the archive also carries Docker's `manifest.json`
(moby image/spec v1.2) so that classic stores read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.image.layer import header, padding

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_CONFIG = {"architecture", "os", "created", "config", "rootfs", "history"}
_SETTINGS = {"Env", "Cmd", "WorkingDir", "User", "Labels"}


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer: its digest is its diff id; ``size`` in bytes."""

    digest: Digest
    size: int
    created_by: str


@dataclass(frozen=True)
class Platform:
    """An operating system and architecture in Go's words, as OCI uses them."""

    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


@dataclass(frozen=True)
class Image:
    """An image as bytes: config, manifest, layers. ``digest`` (the manifest's) is its identity."""

    config: bytes
    manifest: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> Digest:
        """The manifest's digest: the same on every engine and in every registry that we push to."""
        return of_bytes(self.manifest)

    @property
    def config_digest(self) -> Digest:
        """The config's digest: what a classic image store calls the image's id."""
        return of_bytes(self.config)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the uncompressed layers, lowest first."""
        return tuple(layer.digest for layer in self.layers)

    @property
    def size(self) -> int:
        """All layers in bytes."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class RunConfig:
    """What a container made from the image starts with (image-spec config.md, "config")."""

    env: tuple[tuple[str, str], ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: tuple[tuple[str, str], ...] = ()


def timestamp(seconds: int) -> str:
    """RFC 3339 in UTC, as `created` wants it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def build(platform: Platform, layers: tuple[Layer, ...], run: RunConfig, created: int) -> Image:
    """The image of these layers: every field is given, nothing comes from the clock or the machine."""
    stamp = timestamp(created)
    settings: dict[str, Json] = {}
    if run.env:
        settings["Env"] = [f"{name}={value}" for name, value in run.env]
    if run.cmd:
        settings["Cmd"] = list(run.cmd)
    if run.working_dir:
        settings["WorkingDir"] = run.working_dir
    if run.user:
        settings["User"] = run.user
    if run.labels:
        settings["Labels"] = dict(run.labels)
    config = canonical.encode(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            "created": stamp,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": stamp, "created_by": layer.created_by} for layer in layers],
        }
    )
    return Image(config, _manifest(config, layers), layers)


def _manifest(config: bytes, layers: Iterable[Layer]) -> bytes:
    return canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": of_bytes(config), "size": len(config)},
            "layers": [
                {"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers
            ],
        }
    )


def parse(config: bytes, manifest: bytes) -> Image:
    """Read back an image that this module wrote; raises ValueError where it is not one, or not whole."""
    described: Any = canonical.decode(config)
    listed: Any = canonical.decode(manifest)
    if not isinstance(described, dict) or not set(described) <= _CONFIG:
        raise ValueError("an image's config that Mirage did not write")
    settings = described.get("config")
    if not isinstance(settings, dict) or not set(settings) <= _SETTINGS:
        # volumes, for instance, are made by an engine wherever such an image is started, and can be written to
        raise ValueError(
            f"an image's config that Mirage did not write: {sorted(map(str, settings or ()))}"[:200]
        )
    try:
        layers = tuple(
            Layer(parse_digest(item["digest"]), int(item["size"]), str(history["created_by"]))
            for item, history in zip(listed["layers"], described["history"], strict=True)
        )
        named = (listed["config"]["digest"], tuple(described["rootfs"]["diff_ids"]))
    except (KeyError, TypeError, StoreError) as error:
        raise ValueError(f"not an image's config and manifest: {error}") from error
    image = Image(config, manifest, layers)
    if named != (image.config_digest, image.diff_ids):
        raise ValueError("an image's config and manifest do not belong together")
    return image


def _file(name: str, body: bytes) -> bytes:
    return header(name.encode(), 0o644, len(body), b"0") + body + padding(len(body))


def archive(
    image: Image,
    tag: str,
    *,
    omit: frozenset[Digest],
    read: Callable[[Digest], Iterator[bytes]],
) -> Iterator[bytes]:
    """The layout archive of an image, in pieces, for an engine's load call.

    ``tag`` is `name:tag`; layers in ``omit`` are left out (the engine has them); the others are
    streamed from ``read``. Both engines' kinds of store accept the omission, and it must be truly
    absent: a zero-byte layer makes a broken image (moby#46746).
    """
    for name, body in _documents(image, tag):
        yield _file(name, body)
    sent: set[Digest] = set(omit)
    for layer in image.layers:
        if layer.digest in sent:
            continue
        sent.add(layer.digest)
        yield header(_blob(layer.digest).encode(), 0o644, layer.size, b"0")
        yield from read(layer.digest)
        yield padding(layer.size)
    yield b"\0" * 1024


def files(
    image: Image, tag: str, read: Callable[[Digest], Iterator[bytes]]
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The same layout as files: names, and their bytes in pieces."""
    for name, body in _documents(image, tag):
        yield name, (body,)
    for digest in dict.fromkeys(image.diff_ids):
        yield _blob(digest), read(digest)


def _documents(image: Image, tag: str) -> Iterator[tuple[str, bytes]]:
    yield "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
    index = canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [
                {
                    "mediaType": MANIFEST_TYPE,
                    "digest": image.digest,
                    "size": len(image.manifest),
                    "annotations": {
                        # containerd wants the normalised reference here, or the image cannot be found
                        "io.containerd.image.name": f"docker.io/{tag}",
                        "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
                    },
                }
            ],
        }
    )
    yield "index.json", index
    yield _blob(image.digest), image.manifest
    docker_manifest = canonical.encode(
        [
            {
                "Config": _blob(image.config_digest),
                "RepoTags": [tag],
                "Layers": [_blob(layer.digest) for layer in image.layers],
            }
        ]
    )
    yield "manifest.json", docker_manifest
    yield _blob(image.config_digest), image.config


def _blob(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"
