"""Bases from a recipe under `images/`: Debian packages become one layer, and the layer an image of ours.

Does not make the file system; see mmdebstrap.py.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator import canonical
from orchestrator.digest import CHUNK
from orchestrator.image import emulation, mmdebstrap
from orchestrator.image.base_image import CREATED_BY, Base
from orchestrator.image.base_shelf import Shelf
from orchestrator.image.layer import MTIME
from orchestrator.image.library import Library
from orchestrator.image.mmdebstrap import Recipe
from orchestrator.image.oci import Layer, Platform, RunConfig, build
from orchestrator.ports import Reporter

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def source_of(recipe: Recipe) -> str:
    """What a base of this recipe says of where it came from."""
    return f"recipe:{recipe.name}@{recipe.digest}"


def key_manifest(recipe: Recipe, platform: Platform) -> bytes:
    """Everything that decides what a recipe becomes, but for Debian's own state of the day."""
    return canonical.encode(
        {"schema": "mirage-recipe-key/2", "recipe": recipe.digest, "platform": str(platform)}
    )


def make(recipe: Recipe, platform: Platform, *, library: Library, shelf: Shelf, reporter: Reporter) -> Base:
    """Build the recipe's base. Takes half a minute; raises ImageError."""
    reporter.stage("base", f"building {recipe.name} from Debian packages (once per machine)")
    import tempfile  # most runs build no base

    with tempfile.TemporaryDirectory(prefix="mirage-base-") as folder:
        tar = Path(folder) / "root.tar"
        installed = mmdebstrap.build_rootfs(
            recipe, tar, report=reporter.detail, architecture=emulation.other(platform)
        )
        with tar.open("rb") as source, library.writer() as writer:
            while piece := source.read(CHUNK):
                writer.write(piece)
            digest, size = writer.commit()
    layer = Layer(digest, size, CREATED_BY)
    env = (("PATH", PATH),)
    labels = (("flow.mirage.kind", "base"), ("org.opencontainers.image.title", recipe.name))
    image = build(platform, (layer,), RunConfig(env=env, labels=labels), MTIME)
    return shelf.take_in(recipe.name, image.digest, source_of(recipe), image, env, platform, installed)
