"""What the keys of a run would be, found out without making anything: the stages of prepare.py up to the first build.

Must make the keys that prepare.py makes, component for component; a test runs both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from orchestrator.artifacts import version
from orchestrator.config import Config, Project
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import ImageError
from orchestrator.image import assemble, environment
from orchestrator.image.base import Base, Bases
from orchestrator.image.base_shelf import Shelf
from orchestrator.image.library import Library
from orchestrator.image.oci import Image
from orchestrator.key import Key, image_key, run_key
from orchestrator.locks.committed import of_snapshot
from orchestrator.ports import Engine, Reporter, Store
from orchestrator.questions.explain import Candidate, Explained, Keys
from orchestrator.reference import RunId
from orchestrator.source import snapshot


@dataclass(frozen=True)
class Foreseen:
    """The keys as far as they can be known; ``unknown`` says why those that are missing cannot."""

    env: Key | None
    image: Key | None
    run: Key | None
    unknown: str = ""


class NotMade(ImageError):
    """A base that would have to be built or pulled."""


class _KnownShelf(Shelf):
    """A shelf that makes nothing and keeps nothing."""

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
        """The base that is known, or NotMade."""
        found = None if fresh else self._led_to(kind, of_bytes(manifest), newest)
        return found or _refuse(name)

    def once(self, digest: Digest, name: str, make: Callable[[], Base]) -> Base:
        """The base that is known, or NotMade."""
        return self.find(digest) or _refuse(name)

    def _again(self, base: Base) -> Base:
        return base  # its layers are those of its digest; what is said of them is good enough for a question

    def _bank(self, image: Image) -> None:
        pass


def _refuse(name: str) -> NoReturn:
    raise NotMade(f"the base {name} is not known here yet, and all keys rest on its digest")


class KnownBases(Bases):
    """Bases as they are known here."""

    def __init__(
        self, engine: Engine, library: Library, project: Project, reporter: Reporter, wanted: str
    ) -> None:
        super().__init__(engine, library, project.folder, reporter, wanted=wanted)
        self._shelf = _KnownShelf(engine, library, reporter)


def foresee(
    project: Project,
    config: Config,
    extra: tuple[str, ...],
    *,
    store: Store,
    engine: Engine,
    library: Library,
    reporter: Reporter,
) -> Foreseen:
    """The keys of a run of this config. Raises what prepare.py raises for a project that cannot be run."""
    settings = config.settings
    taken = snapshot.take(project.folder, allow_dirty=settings.dirty == "snapshot")
    locked = of_snapshot(taken, settings.environment)
    inputs = tuple((written, version.resolve(store, written).digest) for written in config.inputs)
    bases = KnownBases(engine, library, project, reporter, wanted=settings.platform)
    try:
        base = bases.resolve(settings.base, bases.platform())
    except NotMade as error:
        return Foreseen(None, None, None, error.message)
    if locked.loose:
        from orchestrator.image import resolving

        resolved = resolving.known(locked, base, library)
        if resolved is None:
            reason = (
                f"{locked.path} does not pin everything, and was not resolved yet: a run resolves it first"
            )
            return Foreseen(None, None, None, reason)
        locked = resolved
    manifest = environment.key_manifest(locked, base, settings.environment.groups)
    env = Key(of_bytes(manifest), manifest)
    image = image_key(
        env_key=env.digest,
        commit=taken.commit,
        tree=taken.tree,
        path=taken.prefix,
        sdk=of_bytes(assemble.sdk_layer()),
        config_path=config.path,
        config=config.digest,
    )
    run = run_key(
        image,
        argv=("python", "-m", settings.workflow, "--config", config.path, *extra),
        inputs=inputs,
        env=settings.run.env,
        secrets=settings.run.secrets,
        network=settings.run.network,
        threads=settings.run.threads,
        seed=settings.run.seed,
    )
    return Foreseen(env, image, run)


def explain(
    foreseen: Foreseen,
    keys: Keys,
    library: Library,
    first_with: Callable[[str, str], RunId | None],
    earlier: Callable[[str], Iterable[Candidate]],
) -> tuple[Explained, ...]:
    """Each key of a run that was not made: whether it would be a hit, and what is nearest where it would not."""
    found = []
    for kind, key in (("env", foreseen.env), ("image", foreseen.image), ("run", foreseen.run)):
        if key is None:
            found.append(Explained(kind, "unknown", foreseen.unknown))
            continue
        first = first_with(kind, key.digest)
        led_to = keys.led_to(kind, key.digest) if kind != "run" else ()
        hit, reason = _hit(kind, key, library, first)
        nearest = None
        if not hit:
            candidates = [*earlier(kind), *keys.kept(kind)]
            nearest = keys.nearest(kind, key.digest, key.manifest, candidates)
        state = "hit" if hit else "miss"
        found.append(Explained(kind, state, reason, key.digest, key.manifest, led_to, first, nearest))
    return tuple(found)


def _hit(kind: str, key: Key, library: Library, first: RunId | None) -> tuple[bool, str]:
    if kind == "run":
        return (True, "a run did the same") if first else (False, "no run did the same")
    known = library.look(kind, key.digest)
    if known is None:
        told = library.refused(kind, key.digest) if kind == "env" else []
        return False, "; ".join(
            [
                *(f"the store has {each.entry['digest']}, not believed ({each.reason})" for each in told),
                "it would be built",
            ]
        )
    if kind == "env" and not library.has(parse_digest(known.entry["digest"])):
        return False, "it was built before, and its layer is gone: it would be built again"
    return True, f"it is there already: {known.origin.told()}" if kind == "env" else "it is there already"
