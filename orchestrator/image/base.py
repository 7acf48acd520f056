"""The base: the image below the environment, always known by digest.

A base comes from a recipe under `images/` (built from Debian packages), or from a registry by a pinned digest.
Which one a project uses is kept in `.mirage/base.lock.json`, to be committed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import CHUNK, Digest, hex_of, of_hasher, parse_digest
from orchestrator.errors import ConfigError, ImageError, LockError
from orchestrator.image import mmdebstrap
from orchestrator.image.library import Library
from orchestrator.image.loading import Parent, ensure, tag_of
from orchestrator.image.oci import Image, Layer, Platform, RunConfig, build, parse
from orchestrator.ports import ContainerSpec, Engine, Reporter
from orchestrator.single_flight import single_flight

LOCK_FILE = ".mirage/base.lock.json"
_LOCK_SCHEMA = "mirage-base-lock/1"
_PROBE = (
    "import json, platform, sys;"
    "print(json.dumps({'version': platform.python_version(), 'executable': sys.executable,"
    " 'implementation': platform.python_implementation(), 'libc': ' '.join(platform.libc_ver())}))"
)


@dataclass(frozen=True)
class Python:
    """The base's interpreter."""

    version: str
    executable: str
    implementation: str
    libc: str


@dataclass(frozen=True)
class Base:
    """A base by digest; ``image`` lists its layers uncompressed, ``source`` says where it came from."""

    name: str
    digest: Digest
    source: str
    image: Image
    env: tuple[tuple[str, str], ...]
    python: Python
    platform: Platform
    packages: tuple[tuple[str, str], ...]

    @property
    def tag(self) -> str:
        """Its tag in an engine."""
        return tag_of("base", self.image)

    def to_json(self) -> dict[str, Json]:
        """The form in which the library keeps it."""
        return {
            "schema": "mirage-base/1",
            "name": self.name,
            "digest": self.digest,
            "source": self.source,
            "config": self.image.config.decode(),
            "manifest": self.image.manifest.decode(),
            "env": [f"{name}={value}" for name, value in self.env],
            "python": {
                "version": self.python.version,
                "executable": self.python.executable,
                "implementation": self.python.implementation,
                "libc": self.python.libc,
            },
            "platform": str(self.platform),
            "packages": [[name, version] for name, version in self.packages],
        }


def _from_json(kept: dict[str, Json]) -> Base:
    try:
        python = kept["python"]
        assert isinstance(python, dict)
        system, _, architecture = str(kept["platform"]).partition("/")
        return Base(
            name=str(kept["name"]),
            digest=parse_digest(kept["digest"]),
            source=str(kept["source"]),
            image=parse(str(kept["config"]).encode(), str(kept["manifest"]).encode()),
            env=_pairs(kept["env"]),
            python=Python(**{field: str(value) for field, value in python.items()}),
            platform=Platform(system, architecture),
            packages=tuple((str(p[0]), str(p[1])) for p in kept["packages"]),  # type: ignore[index, union-attr]
        )
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ImageError(
            f"what was kept of a base is damaged: {error!r}", hint="`mirage base build` makes it anew"
        ) from error


def _pairs(env: Json) -> tuple[tuple[str, str], ...]:
    assert isinstance(env, list)
    split = [str(item).partition("=") for item in env]
    return tuple((name, value) for name, _, value in split)


@dataclass(frozen=True)
class Pin:
    """What the project's base lock says of one name on one platform."""

    digest: Digest
    source: str


def read_lock(project: Path) -> dict[tuple[str, str], Pin]:
    """The project's pins by (name, platform). Raises LockError for a damaged file."""
    try:
        content = json.loads((project / LOCK_FILE).read_bytes())
        if content["schema"] != _LOCK_SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        return {
            (name, platform): Pin(parse_digest(pin["digest"]), str(pin["source"]))
            for name, platforms in content["bases"].items()
            for platform, pin in platforms.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(
            f"{LOCK_FILE} cannot be read: {error}", hint="`mirage base pin` writes it anew"
        ) from error


def write_pin(project: Path, name: str, platform: str, pin: Pin) -> None:
    """Add or replace one pin in the project's base lock."""
    pins = {**read_lock(project), (name, platform): pin}
    bases: dict[str, dict[str, dict[str, str]]] = {}
    for (key, where), value in sorted(pins.items()):
        bases.setdefault(key, {})[where] = {"digest": value.digest, "source": value.source}
    text = json.dumps({"schema": _LOCK_SCHEMA, "bases": bases}, indent=2, sort_keys=True) + "\n"
    target = project / LOCK_FILE
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(target)


class Bases:
    """Finds, builds and pulls bases; one of them at a time per name on one machine."""

    def __init__(self, engine: Engine, library: Library, project: Path, reporter: Reporter) -> None:
        self._engine = engine
        self._library = library
        self._project = project
        self._reporter = reporter

    def platform(self) -> Platform:
        """The engine's platform: what every image here is made for."""
        info = self._engine.info()
        return Platform(info.os, info.architecture)

    def resolve(self, name: str, platform: Platform, *, fresh: bool = False) -> Base:
        """The base that a name means here: pinned, known from before, or made now.

        Raises ImageError where it cannot be had, ConfigError for a registry reference without a digest.
        """
        pin = read_lock(self._project).get((name, str(platform)))
        if pin is not None:
            return self._pinned(name, pin, platform)
        if _is_reference(name):
            reference, _, digest = name.partition("@")
            if not digest:
                raise ConfigError(
                    f"the base {name} is a moving name, and is not pinned in {LOCK_FILE}",
                    hint=f"`mirage base pin {name}`, then commit {LOCK_FILE}",
                )
            return self._pulled(name, reference, parse_digest(digest), platform)
        return self.from_recipe(name, platform, fresh=fresh)

    def _pinned(self, name: str, pin: Pin, platform: Platform) -> Base:
        kept = self._library.find("base", pin.digest)
        if kept is not None:
            return _from_json(kept)
        if _is_reference(name):
            return self._pulled(name, pin.source.partition("@")[0], pin.digest, platform)
        base = self.from_recipe(name, platform)
        if base.digest != pin.digest:
            base = self.from_recipe(name, platform, fresh=True)
        if base.digest != pin.digest:
            raise ImageError(
                f"the base {name} is pinned to {pin.digest}, and building it now gives {base.digest}: "
                "its Debian packages have moved on, and the pinned one is neither on this machine nor in the store",
                hint=f"use a store that has it, or `mirage base pin {name}` to move to the new one",
            )
        return base

    def from_recipe(self, name: str, platform: Platform, *, fresh: bool = False) -> Base:
        """The base of a recipe under `images/`: the one known from before, or a new build (``fresh``)."""
        recipe = mmdebstrap.load_recipe(mmdebstrap.find_recipe(name, self._project))
        key_manifest = canonical.encode(
            {"schema": "mirage-recipe-key/1", "recipe": recipe.digest, "platform": str(platform)}
        )
        key = Digest("sha256:" + hashlib.sha256(key_manifest).hexdigest())
        with single_flight(
            self._library.lock_path(f"base-{hex_of(key)}"), f"the base {name}", self._reporter
        ):
            known = self._library.find("recipe", key)
            if known is not None and not fresh:
                kept = self._library.find("base", parse_digest(known["digest"]))
                if kept is not None:
                    return _from_json(kept)
            base = self._build(name, recipe, platform)
            result: dict[str, Json] = {"digest": base.digest, "created": time.time_ns()}
            if self._library.keep("recipe", key, key_manifest, result):
                self._reporter.warn(
                    f"the base {name} was another one before: its Debian packages moved on "
                    f"(now {base.digest}; `mirage base pin {name}` and commit {LOCK_FILE} to hold one)"
                )
            return base

    def _build(self, name: str, recipe: mmdebstrap.Recipe, platform: Platform) -> Base:
        self._reporter.stage("base", f"building {name} from Debian packages (once per machine)")
        with tempfile.TemporaryDirectory(prefix="mirage-base-") as folder:
            tar = Path(folder) / "root.tar"
            installed = mmdebstrap.build_rootfs(recipe, tar, report=self._reporter.detail)
            with tar.open("rb") as source, self._library.writer() as writer:
                while piece := source.read(CHUNK):
                    writer.write(piece)
                digest, size = writer.commit()
        layer = Layer(digest, size, f"mirage base: {name}")
        env = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)
        labels = (("flow.mirage.kind", "base"), ("org.opencontainers.image.title", name))
        image = build(platform, (layer,), RunConfig(env=env, labels=labels), mmdebstrap.SOURCE_DATE_EPOCH)
        packages = tuple((package.name, package.version) for package in installed)
        return self._kept(
            name, image.digest, f"recipe:{name}@{recipe.digest}", image, env, platform, packages
        )

    def pin(self, name: str, platform: Platform) -> Base:
        """Find out what a name means now and write its digest into the project's base lock."""
        if not _is_reference(name):
            base = self.from_recipe(name, platform)
        else:
            reference = name.partition("@")[0]
            self._reporter.stage("base", f"pulling {name}")
            self._engine.pull(name, str(platform))
            found = self._engine.image(name)
            digests = [d for d in (found.repo_digests if found else ()) if "@" in d]
            if not digests:
                raise ImageError(
                    f"the engine pulled {name} but tells no digest of it", hint="pull it from a registry"
                )
            digest = parse_digest(digests[0].partition("@")[2])
            base = self._pulled(name, reference, digest, platform)
        write_pin(self._project, name, str(platform), Pin(base.digest, base.source))
        return base

    def _pulled(self, name: str, reference: str, digest: Digest, platform: Platform) -> Base:
        """A registry's image by digest, its layers taken over uncompressed."""
        kept = self._library.find("base", digest)
        if kept is not None:
            return _from_json(kept)
        repository = reference if ":" not in reference.rpartition("/")[2] else reference.rpartition(":")[0]
        exact = f"{repository}@{digest}"
        if self._engine.image(exact) is None:
            self._reporter.stage("base", f"pulling {exact}")
            self._engine.pull(exact, str(platform))
        found = self._engine.image(exact)
        if found is None:
            raise ImageError(f"the engine pulled {exact} but does not have it")
        env = tuple((k, v) for k, _, v in (item.partition("=") for item in found.env))
        layers = self._take_layers(exact, name, tuple(parse_digest(d) for d in found.diff_ids))
        image = build(
            Platform(found.os, found.architecture),
            layers,
            RunConfig(
                env=env, labels=(("flow.mirage.kind", "base"), ("org.opencontainers.image.title", name))
            ),
            mmdebstrap.SOURCE_DATE_EPOCH,
        )
        return self._kept(name, digest, exact, image, env, platform, ())

    def _take_layers(self, exact: str, name: str, diff_ids: tuple[Digest, ...]) -> tuple[Layer, ...]:
        """Save the image and keep each of its layers, decompressed; what is no layer is passed over."""
        sizes: dict[Digest, int] = {}
        with tarfile.open(
            fileobj=io.BufferedReader(_Pieces(self._engine.save(exact)), CHUNK), mode="r|"
        ) as saved:
            for member in saved:
                body = saved.extractfile(member) if member.isreg() else None
                if body is None or member.size < 1024:
                    continue
                head = body.read(512)
                if not (head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar"):
                    continue
                with self._library.writer() as writer:
                    hasher, size = hashlib.sha256(), 0
                    stream = _Chain(head, body)
                    plain = gzip.GzipFile(fileobj=stream) if head.startswith(b"\x1f\x8b") else stream
                    while piece := plain.read(CHUNK):
                        hasher.update(piece)
                        size += len(piece)
                        writer.write(piece)
                    if of_hasher(hasher) in diff_ids:
                        sizes[writer.commit()[0]] = size
        missing = [digest for digest in diff_ids if digest not in sizes]
        if missing:
            raise ImageError(f"the engine's save of {exact} lacks the layers {', '.join(missing)}")
        return tuple(Layer(digest, sizes[digest], f"base: {name}") for digest in diff_ids)

    def _kept(
        self,
        name: str,
        digest: Digest,
        source: str,
        image: Image,
        env: tuple[tuple[str, str], ...],
        platform: Platform,
        packages: tuple[tuple[str, str], ...],
    ) -> Base:
        """Load the new base, ask its Python who it is, and keep the whole answer under its digest."""
        engine_id = ensure(self._engine, image, tag_of("base", image), (), self._library.read)
        base = Base(name, digest, source, image, env, self._probe(name, engine_id), platform, packages)
        manifest = canonical.encode({"schema": "mirage-base-key/1", "digest": digest})
        self._library.keep("base", digest, manifest, {**base.to_json(), "created": time.time_ns()})
        for layer in image.layers:
            self._library.bank(layer.digest)
        return base

    def _probe(self, name: str, engine_id: str) -> Python:
        container = self._engine.create(
            ContainerSpec(
                image=engine_id, argv=("python3", "-c", _PROBE), labels=(("flow.mirage.builder", "probe"),)
            )
        )
        try:
            output = self._engine.attach(container)
            self._engine.start(container)
            text = b"".join(piece for stream, piece in output if stream == "stdout")
        finally:
            self._engine.remove(container)
        try:
            told = json.loads(text)
        except ValueError as error:
            raise ImageError(
                f"the base {name} has no working python3 (it said {text[:200]!r})",
                hint="use a base with Python, for example `base: python-3.11`",
            ) from error
        return Python(**told)

    def parent(self, base: Base) -> Parent:
        """The base as a parent for loading."""
        return Parent(base.tag, base.image)


def _is_reference(name: str) -> bool:
    return any(mark in name for mark in ":/@")


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._rest:
            self._rest = next(self._pieces, b"")
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Chain(io.RawIOBase):
    """Bytes that were read ahead, then the rest of their stream."""

    def __init__(self, head: bytes, rest: object) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            given = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(given) :]
            return given
        return self._rest.read(size)  # type: ignore[attr-defined, no-any-return]
