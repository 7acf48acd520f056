"""The base: the image below the environment, always known by digest; here a name becomes one.

A name means a recipe under `images/`, a Dockerfile of the project, or a registry's image by a pinned digest. Who makes
which is in recipe_base.py, dockerfile_base.py and registry_base.py; the pins are in base_lock.py.
What only some bases need is imported where it is used: a run of a known base is not to wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.digest import Digest
from orchestrator.errors import ConfigError, ImageError, LockError
from orchestrator.image import mmdebstrap, recipe_base
from orchestrator.image.base_image import Base, Python
from orchestrator.image.base_lock import LOCK_FILE, Pin, read_lock, write_pin
from orchestrator.image.base_shelf import Shelf
from orchestrator.image.library import Library
from orchestrator.image.loading import Parent
from orchestrator.image.oci import Platform
from orchestrator.ports import Engine, Reporter

if TYPE_CHECKING:
    from orchestrator.image.handover import Handover

__all__ = ["LOCK_FILE", "Base", "Bases", "Pin", "Python", "read_lock", "write_pin"]

DEFAULT = "python-3.11"  # what a Dockerfile's BASE_IMAGE stands for


class Bases:
    """Finds, builds and pulls bases; one of them at a time per name on one machine.

    ``handover`` and ``network`` are for building a Dockerfile: what the host gives to it (asked only then), and the
    engine's network that it gets. ``wanted`` is the platform, `auto` or as engines write it. ``before_pull`` hears what an
    image sets before it is pulled, as far as its registry tells that, and raises where it must not be.
    """

    def __init__(
        self,
        engine: Engine,
        library: Library,
        project: Path,
        reporter: Reporter,
        *,
        handover: Callable[[], Handover] | None = None,
        network: str = "default",
        wanted: str = "auto",
        before_pull: Callable[[tuple[tuple[str, str], ...]], object] | None = None,
    ) -> None:
        self._engine = engine
        self._library = library
        self._project = project
        self._reporter = reporter
        self._handover = handover or _host_settings
        self._network = network
        self._wanted = wanted
        self._before_pull = before_pull
        self._shelf = Shelf(engine, library, reporter)

    def platform(self) -> Platform:
        """What every image here is made for: what the project wants, else the engine's own platform."""
        if self._wanted != "auto":
            system, _, architecture = self._wanted.partition("/")
            return Platform(system, architecture)
        info = self._engine.info()
        return Platform(info.os, info.architecture)

    def resolve(self, name: str, platform: Platform, *, fresh: bool = False) -> Base:
        """The base that a name means here: pinned, known from before, or made now.

        Raises ImageError where it cannot be had, ConfigError for a registry reference without a digest, LockError
        where the project's own description of it changed after it was pinned.
        """
        pin = read_lock(self._project).get((name, str(platform)))
        if pin is not None:
            return self._pinned(name, pin, platform)
        if not _is_image(name):
            return self.from_recipe(name, platform, fresh=fresh)
        from orchestrator.image import registry_base

        reference = registry_base.parse(name)
        if reference.digest is None:
            raise ConfigError(
                f"the base {name} is a moving name, and is not pinned in {LOCK_FILE} for {platform}",
                hint=f"`mirage base pin {name}`, then commit {LOCK_FILE}",
            )
        return self._pulled(name, name, reference.digest, platform)

    def from_recipe(
        self, name: str, platform: Platform, *, fresh: bool = False, newest: bool = False
    ) -> Base:
        """The base of a recipe under `images/`, or of a Dockerfile in the project, whatever is pinned.

        It is the one known from before, or a new build (``fresh``); where builds on different days gave different
        ones, the first, or the last (``newest``).
        """
        if _is_dockerfile(name):
            return self._from_dockerfile(name, platform, fresh=fresh, newest=newest)
        recipe = mmdebstrap.load_recipe(mmdebstrap.find_recipe(name, self._project))
        return self._shelf.made(
            "recipe",
            recipe_base.key_manifest(recipe, platform),
            name,
            lambda: recipe_base.make(
                recipe, platform, library=self._library, shelf=self._shelf, reporter=self._reporter
            ),
            fresh=fresh,
            newest=newest,
        )

    def pin(self, name: str, platform: Platform) -> Base:
        """Find out what a name means now and write its digest into the project's base lock.

        For a Dockerfile that includes the moving names in its FROMs.
        """
        from orchestrator.image import dockerfile_recipe

        if _is_image(name):
            base = self._pin_image(name, platform)
        else:
            if _is_dockerfile(name):
                for start in dockerfile_recipe.load(name, self._project).starts:
                    self._pin_start(start.image, platform)
            base = self.from_recipe(name, platform, newest=True)
        self._shelf.publish(base)
        write_pin(self._project, name, str(platform), Pin(base.digest, base.source))
        return base

    def parent(self, base: Base) -> Parent:
        """The base as a parent for loading."""
        return Parent(base.tag, base.image)

    def _pinned(self, name: str, pin: Pin, platform: Platform) -> Base:
        if _is_image(name):
            return self._pulled(name, pin.source, pin.digest, platform)
        self._check_description(name, pin)
        kept = self._shelf.find(pin.digest)
        if kept is not None:
            if kept.image.digest != pin.digest:
                raise ImageError(
                    f"what was kept of the base {name} has the image {kept.image.digest}, and {LOCK_FILE} pins {pin.digest}",
                    hint="somebody changed it: `mirage fsck`, and look who can write to the store",
                )
            return replace(kept, name=name, source=pin.source)
        base = self.from_recipe(name, platform, fresh=True)
        if base.digest != pin.digest:
            raise ImageError(
                f"the base {name} is pinned to {pin.digest}, and building it now gives {base.digest}: "
                "its Debian packages have moved on, and the pinned one is neither on this machine nor in the store",
                hint=f"use a store that has it, or `mirage base pin {name}` to move to the new one",
            )
        return base

    def _check_description(self, name: str, pin: Pin) -> None:
        """A description that lies in the project must still be the one that was pinned: else an edit of it would
        have no effect, and nobody would be told. Mirage's own recipes may change with its version.
        """
        from orchestrator.image import dockerfile_recipe

        if _is_dockerfile(name):
            now = dockerfile_recipe.load(name, self._project).source
        else:
            folder = mmdebstrap.find_recipe(name, self._project)
            if folder.parent.parent != self._project:
                return
            now = recipe_base.source_of(mmdebstrap.load_recipe(folder))
        if now != pin.source:
            raise LockError(
                f"{LOCK_FILE} pins the base {name} as it was before {name} (or a file that it copies) changed",
                hint=f"`mirage base pin {name}`, and commit both",
            )

    def _from_dockerfile(self, name: str, platform: Platform, *, fresh: bool, newest: bool) -> Base:
        from orchestrator.image import dockerfile_base, dockerfile_recipe

        recipe = dockerfile_recipe.load(name, self._project)
        pins = read_lock(self._project)

        def pinned(image: str) -> Digest | None:
            pin = pins.get((image, str(platform)))
            return pin.digest if pin is not None else None

        starts = dockerfile_recipe.starts_of(recipe, lambda: self.resolve(DEFAULT, platform), pinned)
        return self._shelf.made(
            "dockerfile",
            dockerfile_recipe.key_manifest(recipe, starts, platform),
            name,
            lambda: dockerfile_base.make(
                recipe,
                starts,
                platform,
                engine=self._engine,
                library=self._library,
                shelf=self._shelf,
                reporter=self._reporter,
                handover=self._handover(),
                network=self._network,
                fresh=fresh,
            ),
            fresh=fresh,
            newest=newest,
        )

    def _pin_image(self, name: str, platform: Platform) -> Base:
        return self._pulled(name, name, self._digest_now(name, platform), platform)

    def _pin_start(self, image: str, platform: Platform) -> None:
        from orchestrator.image import dockerfile_recipe, registry_base

        if image == dockerfile_recipe.MIRAGE_BASE or registry_base.parse(image).digest is not None:
            return
        digest = self._digest_now(image, platform)
        exact = registry_base.parse(image).exact(digest)
        write_pin(self._project, image, str(platform), Pin(digest, exact))

    def _digest_now(self, name: str, platform: Platform) -> Digest:
        from orchestrator.image import registry_base

        self._reporter.stage("base", f"pulling {name}")
        return registry_base.find_digest(self._engine, name, platform, self._reporter)

    def _pulled(self, name: str, place: str, digest: Digest, platform: Platform) -> Base:
        """A registry's image by digest: kept from before, or pulled from ``place`` now."""
        from orchestrator.image import registry_base

        base = self._shelf.once(
            digest,
            name,
            lambda: registry_base.take(
                place,
                digest,
                platform,
                engine=self._engine,
                library=self._library,
                shelf=self._shelf,
                reporter=self._reporter,
                before_pull=self._before_pull,
            ),
        )
        if base.platform != platform:
            raise ImageError(
                f"{name}@{digest} is for {base.platform}, expected {platform}", hint="pin it on this platform"
            )
        # The same image may have come here under another name; what is said and pinned is what was asked for.
        return replace(base, name=name, source=registry_base.parse(place).exact(digest))


def _host_settings() -> Handover:
    """This host's certificates and proxies, without its Python indexes."""
    from orchestrator.image.handover import gather

    return gather("auto", "none", os.environ)


def _is_image(name: str) -> bool:
    """Whether a base's name means an image of a registry, rather than a recipe or a file of the project."""
    return any(mark in name for mark in ":/@") and not _is_dockerfile(name)


def _is_dockerfile(name: str) -> bool:
    """Whether a base's name means a file of the project: the last part of its path begins with `Dockerfile`."""
    return name.rpartition("/")[2].startswith("Dockerfile")
