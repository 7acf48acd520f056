"""A run image that a record names, brought back without building: from the engine, from the store's layers, or from a
registry that it was pushed to.

Owns where an image's config and manifest are kept beside its key. Builds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, parse_digest
from orchestrator.errors import ImageError, MirageError
from orchestrator.image import loading
from orchestrator.image.base_image import Base, from_json
from orchestrator.image.environment import Environment, parent
from orchestrator.image.library import Library
from orchestrator.image.loading import Parent
from orchestrator.image.oci import Image, Layer, parse
from orchestrator.ports import Engine, Reporter, Store


@dataclass(frozen=True)
class Wanted:
    """A run image as a record has it."""

    key: Digest
    digest: Digest
    config_digest: Digest
    diff_ids: tuple[Digest, ...]

    @property
    def tag(self) -> str:
        """Its tag in an engine, where Mirage loaded it."""
        return f"mirage/run:{hex_of(self.digest)[:24]}"


def kept(place: Store, wanted: Wanted) -> Image | None:
    """The image's config and manifest as a store keeps them; None where it does not.

    Raises ImageError where what is kept is not this image.
    """
    name = f"keys/image/{hex_of(wanted.key)}/results/{hex_of(wanted.digest)}.json"
    data = place.read(name)
    if data is None:
        return None
    try:
        entry = canonical.decode(data)
        assert isinstance(entry, dict)
        image = parse(str(entry["config"]).encode(), str(entry["manifest"]).encode())
    except (ValueError, KeyError, AssertionError, RecursionError) as error:
        raise ImageError(f"{name} in {place.location} is damaged: {error!r}") from error
    if (image.digest, image.config_digest) != (wanted.digest, wanted.config_digest):
        raise ImageError(f"{name} in {place.location} is another image: {image.digest}")
    return image


def in_engine(engine: Engine, wanted: Wanted) -> str | None:
    """The engine's id of the image, where the engine has it whole."""
    found = engine.image(wanted.tag)
    if found is None or found.diff_ids != wanted.diff_ids:
        return None
    return found.id if found.id in (wanted.digest, wanted.config_digest) else None


def whole(store: Store, library: Library, wanted: Wanted, reporter: Reporter) -> tuple[Image | None, str]:
    """The image with all of its layers in reach, and where from: `store` or `registry`; None with the reason.

    A registry is asked only for what is not kept. Raises ImageError where what the store keeps is another image.
    """
    image = kept(store, wanted)
    if image is not None and all(map(library.has, image.diff_ids)):
        return image, "store"
    from orchestrator.image import exporting

    trouble = "the store does not have all of its layers"
    for reference in exporting.places(store, wanted.key, wanted.digest):
        try:
            return exporting.fetch(reference, wanted, library, reporter), "registry"
        except MirageError as error:
            trouble += f"; {error.message}"
    return None, trouble


def restore(
    engine: Engine, library: Library, image: Image, wanted: Wanted, base: Digest, environment: Digest
) -> str | None:
    """Load the image from kept layers, those only that the engine lacks; None where a layer is not kept.

    Raises ImageError where a layer is damaged, EngineError where the engine refuses it.
    """
    if not all(map(library.has, image.diff_ids)):
        return None
    parents = _parents(library, base, environment)
    return loading.ensure(engine, image, wanted.tag, parents, library.read)


def _parents(library: Library, base: Digest, key: Digest) -> list[Parent]:
    """What may be in the engine already and shares layers; knowing none only costs time."""
    found: list[Parent] = []
    try:
        kept_base = library.find("base", base)
        if kept_base is not None:
            below: Base = from_json(kept_base)
            kept_environment = library.find("env", key)
            if kept_environment is not None:
                layer = Layer(
                    parse_digest(kept_environment["digest"]),
                    int(str(kept_environment["size"])),
                    "mirage environment",
                )
                installed = parse_digest(kept_environment["installed"])
                found.append(parent(below, Environment(key, b"", layer, installed, cached=True)))
            found.append(Parent(below.tag, below.image))
    except (MirageError, KeyError, ValueError):
        return []
    return found
