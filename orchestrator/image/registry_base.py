"""Bases from a registry: a reference's digest is found once, and the image is taken by that digest as it is.

Owns what an image reference is. Does not decide whether a moving name may be used; see base.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.digest import Digest, parse_digest
from orchestrator.engine_values import LoadedImage
from orchestrator.errors import ConfigError, EngineError, ImageError, MirageError, StoreError
from orchestrator.image import saved_layers
from orchestrator.image.base_image import CREATED_BY, Base, pairs
from orchestrator.image.base_shelf import Shelf
from orchestrator.image.layer import MTIME
from orchestrator.image.library import Library
from orchestrator.image.oci import Layer, Platform, RunConfig, build
from orchestrator.ports import Engine, Reporter

BeforePull: TypeAlias = "Callable[[tuple[tuple[str, str], ...]], object]"
_CONFIG_LIMIT = 4 << 20  # bytes


@dataclass(frozen=True)
class ImageReference:
    """`repository[:tag][@digest]`; without a tag or a digest the tag is ``latest``, as engines have it."""

    repository: str
    tag: str
    digest: Digest | None

    @property
    def by_tag(self) -> str:
        """The moving name."""
        return f"{self.repository}:{self.tag}"

    def exact(self, digest: Digest) -> str:
        """The name that cannot move."""
        return f"{self.repository}@{digest}"


def parse(name: str) -> ImageReference:
    """Read an image reference. Raises ConfigError where it is none."""
    rest, at, digest = name.partition("@")
    tagged = ":" in rest.rpartition("/")[2]
    repository, _, tag = rest.rpartition(":") if tagged else (rest, "", "latest")
    try:
        found = parse_digest(digest) if at else None
    except StoreError as error:
        raise ConfigError(
            f"the image {name!r} names no digest after the @",
            hint="expected NAME@sha256: and 64 hex digits",
        ) from error
    if not repository or not tag or any(character.isspace() for character in name):
        raise ConfigError(f"{name!r} is no image reference", hint="expected for example python:3.12-slim")
    return ImageReference(repository, tag, found)


def find_digest(engine: Engine, name: str, platform: Platform, reporter: Reporter) -> Digest:
    """What a registry's name means now: pulls it, and gives the digest under which the registry has it."""
    reference = parse(name)
    if reference.digest is not None:
        return reference.digest
    engine.pull(reference.by_tag, str(platform), reporter)
    found = engine.image(reference.by_tag)
    # The same image may be known from several registries; each has its own digest of it.
    told = [item.partition("@") for item in (found.repo_digests if found else ())]
    own = [digest for repository, _, digest in told if _short(repository) == _short(reference.repository)]
    if not own:
        raise ImageError(
            f"the engine pulled {reference.by_tag} but tells no digest of it",
            hint="an image that was only built or loaded has none: push it to a registry first",
        )
    return parse_digest(own[0])


def told_env(exact: str, platform: Platform) -> tuple[tuple[str, str], ...]:
    """What an image's configuration sets, as its registry tells it without the layers; nothing where it does not."""
    from orchestrator.executors.registry import Registry

    reference = parse(exact)
    registry = None
    try:
        registry = Registry(reference.repository)
        manifest: Any = json.loads(registry.manifest(str(reference.digest)))
        for each in manifest.get("manifests", ()):
            if (each["platform"]["os"], each["platform"]["architecture"]) == (
                platform.os,
                platform.architecture,
            ):
                manifest = json.loads(registry.manifest(parse_digest(each["digest"])))
                break
        digest = parse_digest(manifest["config"]["digest"])
        config: Any = json.loads(b"".join(registry.blob(digest, _CONFIG_LIMIT)))
        return pairs(tuple(map(str, config["config"].get("Env") or ())))
    except (MirageError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    finally:
        if registry is not None:
            registry.close()


def present(
    engine: Engine, reporter: Reporter, exact: str, platform: Platform, before_pull: BeforePull | None = None
) -> LoadedImage:
    """The image in the engine, pulled by digest first if need be. Raises ImageError where it is for another platform.

    ``before_pull`` hears before that what the image sets, as far as its registry tells, and may refuse it.
    """
    found = engine.image(exact)
    if found is None:
        if before_pull is not None:
            before_pull(told_env(exact, platform))
        reporter.stage("base", f"pulling {exact}")
        try:
            engine.pull(exact, str(platform), reporter)
        except EngineError as error:
            raise ImageError(
                f"the base {exact} is neither on this machine nor in the store, and cannot be pulled: {error.message}",
                hint="check the network and the registry's login (docker login), or use a store that has this base",
            ) from error
        found = engine.image(exact)
    if found is None:
        raise ImageError(f"the engine pulled {exact} but does not have it", hint="pull it again")
    if (found.os, found.architecture) != (platform.os, platform.architecture):
        raise ImageError(
            f"{exact} is for {found.os}/{found.architecture}, expected {platform}",
            hint="name an image for this platform, or the digest of a list of images that has one",
        )
    return found


def take(
    name: str,
    digest: Digest,
    platform: Platform,
    *,
    engine: Engine,
    library: Library,
    shelf: Shelf,
    reporter: Reporter,
    before_pull: BeforePull | None = None,
) -> Base:
    """The image with this digest as a base, its layers as they are, uncompressed."""
    exact = parse(name).exact(digest)
    found = present(engine, reporter, exact, platform, before_pull)
    diff_ids = tuple(parse_digest(item) for item in found.diff_ids)
    sizes = saved_layers.take(engine.save(exact), diff_ids, library, exact)
    # Named by digest alone: what a project calls the image must not change the digest of what is built on it.
    layers = tuple(Layer(each, sizes[each], CREATED_BY) for each in diff_ids)
    env = pairs(found.env)
    labels = (("flow.mirage.kind", "base"), ("org.opencontainers.image.base.digest", digest))
    image = build(platform, layers, RunConfig(env=env, labels=labels), MTIME)
    return shelf.take_in(name, digest, exact, image, env, platform, ())


def _short(repository: str) -> str:
    """A repository as engines write it: docker.io and its `library/` are left out."""
    for prefix in ("index.docker.io/", "docker.io/"):
        repository = repository.removeprefix(prefix)
    return repository.removeprefix("library/")
