"""The bases that are known: found by digest or by what they are made of, and taken in when they are new.

A base on the shelf is in the library with all of its layers, and in the project's store for other machines. Where
a base comes from is for the modules that make them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError
from orchestrator.image import interpreter
from orchestrator.image.base_image import Base, described, from_json
from orchestrator.image.belief import STORE
from orchestrator.image.library import Library
from orchestrator.image.loading import ensure, tag_of
from orchestrator.image.oci import Image, Platform
from orchestrator.ports import Engine, Reporter
from orchestrator.single_flight import single_flight


class Shelf:
    """Bases in the library; a new one is made once at a time on one machine."""

    def __init__(self, engine: Engine, library: Library, reporter: Reporter) -> None:
        self._engine = engine
        self._library = library
        self._reporter = reporter

    def find(self, digest: Digest) -> Base | None:
        """The base with this digest, where it is kept whole."""
        known = self._library.look("base", digest)
        if known is None:
            return self._checked(digest)
        base = from_json(known.entry)
        if base.digest != digest:
            raise ImageError(
                f"what was kept of the base {digest} is that of another one, {base.digest}",
                hint="somebody changed it: `mirage fsck`, and look who can write to the store",
            )
        if not all(map(self._library.has, base.image.diff_ids)):
            return None
        self._bank(base.image)
        return base

    def _checked(self, digest: Digest) -> Base | None:
        """A base of a store that is not believed, where its digest is that of the image itself: then its layers are
        the right ones whoever kept them, and what else is said of it is found out anew. A registry's digest says
        nothing of layers that were unpacked: such a base is pulled again.
        """
        for told in self._library.refused("base", digest):
            try:
                base = from_json(told.entry)
            except ImageError:
                continue
            if base.digest != digest or base.image.digest != digest:
                continue
            if all(map(self._library.has, base.image.diff_ids)):
                return self._again(base)
        return None

    def _again(self, base: Base) -> Base:
        env, platform = described(base.image)
        packages: tuple[tuple[str, str], ...] = ()
        import tempfile  # most runs take no base in

        from orchestrator.image import dpkg

        with tempfile.TemporaryDirectory(prefix="mirage-base-") as folder:
            for layer in base.image.layers:
                path = Path(folder) / "layer.tar"
                with path.open("wb") as out:
                    out.writelines(self._library.read(layer.digest))
                packages = dpkg.installed(path) or packages
        return self.take_in(base.name, base.digest, base.source, base.image, env, platform, packages)

    def made(
        self,
        kind: str,
        manifest: bytes,
        name: str,
        make: Callable[[], Base],
        *,
        fresh: bool,
        newest: bool = False,
    ) -> Base:
        """The base that the key's ``manifest`` led to, else the one that ``make`` gives now.

        ``fresh`` makes it in any case. Where it was made several times with different results, the first one
        stands, so that nothing changes underneath a project; ``newest`` asks for the last.
        """
        key = of_bytes(manifest)
        known = None if fresh else self._led_to(kind, key, newest)
        if known is not None:
            return known
        with single_flight(
            self._library.lock_path(f"base-{hex_of(key)}"), f"the base {name}", self._reporter
        ):
            known = None if fresh else self._led_to(kind, key, newest)
            if known is not None:
                return known
            base = make()
            result: dict[str, Json] = {"digest": base.digest, "created": str(time.time_ns())}
            others = self._library.keep(kind, key, manifest, result)
            if others:
                self._reporter.warn(
                    f"drift: the base {name} is {base.digest} now, and was {others} before, from the same "
                    f"description: its packages moved on (`mirage base pin {name}` holds the new one)"
                )
            return base

    def once(self, digest: Digest, name: str, make: Callable[[], Base]) -> Base:
        """The base with this digest, else the one that ``make`` gives now (a pull)."""
        known = self.find(digest)
        if known is not None:
            return known
        lock = self._library.lock_path(f"base-{hex_of(digest)}")
        with single_flight(lock, f"the base {name}", self._reporter):
            return self.find(digest) or make()

    def take_in(
        self,
        name: str,
        digest: Digest,
        source: str,
        image: Image,
        env: tuple[tuple[str, str], ...],
        platform: Platform,
        packages: tuple[tuple[str, str], ...],
    ) -> Base:
        """Load a new base, ask its Python who it is, and keep the whole answer under its digest.

        Its layers are in the library already. Raises ImageError where it has no Python.
        """
        tag = tag_of("base", image)
        engine_id = ensure(self._engine, image, tag, (), self._library.read, reporter=self._reporter)
        try:
            python = interpreter.ask(self._engine, name, engine_id)
        except ImageError:
            self._engine.remove_image(tag)
            raise
        base = Base(name, digest, source, image, env, python, platform, packages)
        self._keep(base)
        return base

    def publish(self, base: Base) -> None:
        """Keep a base here and in the project's store, where another machine finds it by its digest.

        A base that was found on this machine may have been made for another project, with another store.
        """
        known = self._library.look("base", base.digest)
        if known is not None and known.origin.place == STORE:
            self._bank(base.image)  # the store has it from somebody else: nothing to vouch for
        else:
            self._keep(base)

    def _keep(self, base: Base) -> None:
        manifest = canonical.encode({"schema": "mirage-base-key/1", "digest": base.digest})
        self._bank(base.image)
        self._library.keep("base", base.digest, manifest, {**base.to_json(), "created": str(time.time_ns())})

    def _led_to(self, kind: str, key: Digest, newest: bool) -> Base | None:
        if newest:
            entries = self._library.ledger(kind, key)
            found = entries[-1] if entries else None
        else:
            found = self._library.find(kind, key)
        return None if found is None else self.find(parse_digest(found["digest"]))

    def _bank(self, image: Image) -> None:
        for layer in image.layers:
            self._library.bank(layer.digest, "base")
