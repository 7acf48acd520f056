"""The environment: the layer of an installed lock under its key, known from before or built now (builder.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError
from orchestrator.image import uv_version
from orchestrator.image.base import Base
from orchestrator.image.belief import HERE, Origin
from orchestrator.image.library import Library
from orchestrator.image.loading import Parent, tag_of
from orchestrator.image.oci import Image, Layer, RunConfig, build
from orchestrator.image.variation import USUAL, Manner
from orchestrator.locks.pinned import Lock
from orchestrator.locks.selection import select
from orchestrator.locks.target import Target
from orchestrator.ports import Engine, Reporter
from orchestrator.single_flight import single_flight

if TYPE_CHECKING:
    from orchestrator.image.handover import Handover

RECIPE_VERSION = 2  # counts up when the same lock would give another layer


@dataclass(frozen=True)
class Environment:
    """A built environment: its key with the manifest that made it, its layer, and what is installed."""

    key: Digest
    key_manifest: bytes
    layer: Layer
    installed: Digest
    cached: bool
    sbom: Digest | None = None  # the bill of materials
    origin: Origin = HERE


def key_manifest(lock: Lock, base: Base, groups: tuple[str, ...]) -> bytes:
    """The canonical manifest whose digest is the environment's key (design section 7).

    Raises LockError where the lock has nothing for the base's platform or Python.
    """
    lock = narrowed(lock, base)
    return canonical.encode(
        {
            "schema": "mirage-env-key/1",
            "base": base.digest,
            "platform": str(base.platform),
            "lock": lock.to_json(),
            "groups": list(groups),
            "python": f"{base.python.implementation} {base.python.version}",
            "installer": f"uv {uv_version.installed()}",
            "recipe": RECIPE_VERSION,
        }
    )


def narrowed(lock: Lock, base: Base) -> Lock:
    """The lock as it is installed on a base; the same again for one that is narrowed already."""
    python = base.python
    return select(
        lock, Target(base.platform.architecture, python.implementation, python.version, python.libc)
    )


def image_of(base: Base, environment: Environment) -> Image:
    """Base and environment alone as an image, kept tagged in the engine to hold the layers there."""
    labels = (("flow.mirage.env-key", str(environment.key)), ("flow.mirage.kind", "env"))
    layers = (*base.image.layers, environment.layer)
    return build(base.platform, layers, RunConfig(env=base.env, labels=labels), 315532800)


def parent(base: Base, environment: Environment) -> Parent:
    """The environment's image as a parent for loading."""
    image = image_of(base, environment)
    return Parent(tag_of("env", image), image)


def provide(
    lock: Lock,
    base: Base,
    groups: tuple[str, ...],
    *,
    engine: Engine,
    library: Library,
    handover: Callable[[], Handover],
    network: str,
    reporter: Reporter,
    fresh: bool = False,
    manner: Manner = USUAL,
    folders: Callable[[str], bytes] | None = None,
    meanwhile: Callable[[Environment], object] = lambda made: None,
) -> Environment:
    """The environment of a lock on a base: known from before, or built now, once per machine at a time.

    ``handover`` is asked only when there is something to build, and ``folders`` then for those of the project's commit
    that a lock names, each as a tar; ``meanwhile`` is done with one that was built, while
    the engine takes the builder apart.
    Raises LockError where the lock cannot be installed, ImageError where the layer cannot be made.
    """
    notes = lock.notes
    lock = narrowed(lock, base)
    manifest = key_manifest(lock, base, groups)
    made = _provide(
        lock,
        notes,
        base,
        manifest,
        engine,
        library,
        handover,
        network,
        reporter,
        fresh,
        manner,
        folders,
        meanwhile,
    )
    if "wheels" in library.banked and lock.packages:
        _keep_wheels(lock, base, made, engine, library, handover, network, reporter, folders)
    return made


def _keep_wheels(
    lock: Lock,
    base: Base,
    made: Environment,
    engine: Engine,
    library: Library,
    handover: Callable[[], Handover],
    network: str,
    reporter: Reporter,
    folders: Callable[[str], bytes] | None,
) -> None:
    """The environment's wheels in the store, fetched once."""
    from orchestrator.image import wheel_bank
    from orchestrator.image.builder import Builder

    with single_flight(library.lock_path(f"env-{hex_of(made.key)}"), "this environment's wheels", reporter):
        kept = wheel_bank.find(library, made.key, lock)
        if kept is None:
            with Builder(engine, library, reporter, handover(), network, folders=folders) as builder:
                builder.keep_wheels(lock, base, made.key, made.key_manifest)
            return
        wheel_bank.bank(library, made.key, kept)


def _provide(
    lock: Lock,
    notes: tuple[str, ...],
    base: Base,
    manifest: bytes,
    engine: Engine,
    library: Library,
    handover: Callable[[], Handover],
    network: str,
    reporter: Reporter,
    fresh: bool,
    manner: Manner,
    folders: Callable[[str], bytes] | None,
    meanwhile: Callable[[Environment], object],
) -> Environment:
    key = of_bytes(manifest)
    if not fresh:
        known = _known(library, key, manifest, base)
        if known is not None:
            return known
    with single_flight(library.lock_path(f"env-{hex_of(key)}"), "this environment", reporter) as told:
        if not fresh:
            known = _known(library, key, manifest, base)
            if known is not None:
                return known
        from orchestrator.image.builder import Builder

        for note in notes:
            told.note(note)
        if not fresh:
            for other in library.refused("env", key):
                told.note(
                    f"the store has this environment as {other.entry['digest']}, which is not believed "
                    f"({other.reason}): it is built here, and compared (docs/trust.md)"
                )
        count = len(lock.packages)
        told.stage("environment", f"installing {count} package{'s' if count != 1 else ''} from {lock.path}")
        with Builder(engine, library, told, handover(), network, manner, folders) as builder:
            layer, installed = builder.build(lock, base, key)
            sbom = library.put(_bill(key, layer, base, installed, library))
            result: dict[str, Json] = {
                "digest": layer.digest,
                "size": layer.size,
                "created": str(time.time_ns()),
                "installed": installed,
                "sbom": sbom,
            }
            others = library.keep("env", key, manifest, result)
            if others:
                reporter.warn(
                    f"drift: the environment {key} was built before with another digest than {layer.digest}: {others}"
                )
            library.bank(layer.digest, "layers")
            made = Environment(key, manifest, layer, installed, cached=False, sbom=sbom)
            meanwhile(made)
        return made


def _known(library: Library, key: Digest, manifest: bytes, base: Base) -> Environment | None:
    known = library.look("env", key)
    if known is None:
        return None
    found = known.entry
    try:
        digest, installed = parse_digest(found["digest"]), parse_digest(found["installed"])
        layer = Layer(digest, int(str(found["size"])), "mirage environment")
    except (KeyError, ValueError) as error:
        raise ImageError(
            f"what was kept of the environment {key} is damaged: {error!r}",
            hint="run with --no-cache: it is then built again",
        ) from error
    if not library.has(digest):
        return None
    if found.get("sbom"):
        sbom: Digest | None = parse_digest(found["sbom"])
    else:
        sbom = _late_bill(key, layer, base, installed, library)
    return Environment(key, manifest, layer, installed, cached=True, sbom=sbom, origin=known.origin)


def _bill(key: Digest, layer: Layer, base: Base, installed: Digest, library: Library) -> bytes:
    """The environment's bill of materials, kept once: a run names it and makes none."""
    from orchestrator.image import sbom

    packages: Any = canonical.decode(b"".join(library.read(installed)))
    return sbom.of_environment(key, layer.digest, str(base.platform), packages, base.packages)


def _late_bill(key: Digest, layer: Layer, base: Base, installed: Digest, library: Library) -> Digest | None:
    """The bill of an environment from before there were such: made at its first use, then known like others."""
    known = library.find("sbom", key)
    if known is not None and library.has(parse_digest(known["digest"])):
        return parse_digest(known["digest"])
    if not library.has(installed):
        return None
    digest = library.put(_bill(key, layer, base, installed, library))
    manifest = canonical.encode({"schema": "mirage-sbom-key/1", "environment": key})
    library.keep("sbom", key, manifest, {"digest": digest, "created": str(time.time_ns())})
    return digest
