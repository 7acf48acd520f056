"""The bases that are known: found by digest or by what they are made of, and taken in when they are new.

A base on the shelf is in the library with all of its layers, and in the project's store for other machines. Where
a base comes from is for the modules that make them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError
from orchestrator.image import interpreter
from orchestrator.image.base_image import Base, from_json
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
        kept = self._library.find("base", digest)
        if kept is None:
            return None
        base = from_json(kept)
        if not all(map(self._library.has, base.image.diff_ids)):
            return None
        self._bank(base.image)
        return base

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
            if self._library.keep(kind, key, manifest, result):
                self._reporter.warn(
                    f"drift: the base {name} was built before with another digest than {base.digest}, from the "
                    f"same description: its packages moved on (`mirage base pin {name}` holds the new one)"
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
        engine_id = ensure(self._engine, image, tag, (), self._library.read)
        try:
            python = interpreter.ask(self._engine, name, engine_id)
        except ImageError:
            self._engine.remove_image(tag)
            raise
        base = Base(name, digest, source, image, env, python, platform, packages)
        self.publish(base)
        return base

    def publish(self, base: Base) -> None:
        """Keep a base here and in the project's store, where another machine finds it by its digest.

        A base that was found on this machine may have been made for another project, with another store.
        """
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
