"""The environment layer: a lock installed by uv in a throw-away builder container, made deterministic.

Owns the builder's life and the layer's key. What the host hands over (handover.py) reaches the builder's
commands and is provably absent from the layer.
"""

from __future__ import annotations

import json
import platform as host
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError, LockError, MirageError
from orchestrator.image.base import Base
from orchestrator.image.handover import Handover
from orchestrator.image.library import Library
from orchestrator.image.loading import Parent, ensure, tag_of
from orchestrator.image.oci import Image, Layer, RunConfig, build
from orchestrator.lock import Lock
from orchestrator.ports import ContainerSpec, Engine, Reporter
from orchestrator.single_flight import single_flight

RECIPE_VERSION = 1  # counts up when the same lock would give another layer
BUILDER_LABEL = "flow.mirage.builder"
CACHE_VOLUME = "mirage-uv-cache"
_PYTHON = "/opt/venv/bin/python"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Environment:
    """A built environment: its key with the manifest that made it, its layer, and what is installed."""

    key: Digest
    key_manifest: bytes
    layer: Layer
    installed: Digest
    cached: bool


def key_manifest(lock: Lock, base: Base, groups: tuple[str, ...]) -> bytes:
    """The canonical manifest whose digest is the environment's key (design section 7)."""
    return canonical.encode(
        {
            "schema": "mirage-env-key/1",
            "base": base.digest,
            "platform": str(base.platform),
            "lock": {"kind": lock.kind, "packages": [package.to_json() for package in lock.packages]},
            "groups": list(groups),
            "python": f"{base.python.implementation} {base.python.version}",
            "installer": f"uv {installed_version('uv')}",
            "recipe": RECIPE_VERSION,
        }
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
) -> Environment:
    """The environment of a lock on a base: known from before, or built now, once per machine at a time.

    ``handover`` is asked only when there is something to build.
    Raises LockError where the lock cannot be installed, ImageError where the layer cannot be made.
    """
    manifest = key_manifest(lock, base, groups)
    key = of_bytes(manifest)
    if not fresh:
        known = _known(library, key, manifest)
        if known is not None:
            return known
    with single_flight(library.lock_path(f"env-{hex_of(key)}"), "this environment", reporter):
        if not fresh:
            known = _known(library, key, manifest)
            if known is not None:
                return known
        count = len(lock.packages)
        reporter.stage(
            "environment", f"installing {count} package{'s' if count != 1 else ''} from {lock.path}"
        )
        builder = _Builder(engine, library, reporter, handover(), network)
        layer, installed = builder.build(lock, base, key)
        result: dict[str, Json] = {
            "digest": layer.digest,
            "size": layer.size,
            "created": time.time_ns(),
            "installed": installed,
        }
        if library.keep("env", key, manifest, result):
            reporter.warn(
                f"drift: the environment {key} was built before with another digest than {layer.digest}"
            )
        library.bank(layer.digest)
        return Environment(key, manifest, layer, installed, cached=False)


def _known(library: Library, key: Digest, manifest: bytes) -> Environment | None:
    found = library.find("env", key)
    if found is None:
        return None
    digest = parse_digest(found["digest"])
    if not library.has(digest):
        return None
    layer = Layer(digest, int(str(found["size"])), "mirage environment")
    return Environment(key, manifest, layer, parse_digest(found["installed"]), cached=True)


class _Builder:
    def __init__(
        self, engine: Engine, library: Library, reporter: Reporter, handover: Handover, network: str
    ) -> None:
        self._engine = engine
        self._library = library
        self._reporter = reporter
        self._handover = handover
        self._network = "bridge" if network == "default" else network

    def build(self, lock: Lock, base: Base, key: Digest) -> tuple[Layer, Digest]:
        """Install, finish and take the layer; the container is gone afterwards, whatever happened."""
        image_id = ensure(self._engine, base.image, base.tag, (), self._library.read)
        with self._container(image_id, key) as container:
            self._engine.put(container, "/", self._files(lock))
            self._install(container, lock, base)
            self._run(container, (base.python.executable, "/build/in_builder.py", "finish", "/build"), ())
            layer = self._take_layer(container)
            installed = b"".join(self._engine.get(container, "/build/installed.json"))
        return layer, self._library.put(canonical.encode(json.loads(installed)))

    @contextmanager
    def _container(self, image_id: str, key: Digest) -> Iterator[str]:
        container = self._engine.create(
            ContainerSpec(
                image=image_id,
                argv=("sleep", "infinity"),
                labels=((BUILDER_LABEL, hex_of(key)),),
                user="0:0",
                network=self._network,
                read_only=False,
                volumes=((CACHE_VOLUME, "/cache"),),
            )
        )
        try:
            self._engine.start(container)
            yield container
        finally:
            self._engine.remove(container)

    def _files(self, lock: Lock) -> Iterator[tuple[str, bytes, int]]:
        yield "build/requirements.txt", lock.requirements(), 0o644
        yield "build/in_builder.py", (_HERE / "in_builder.py").read_bytes(), 0o644
        yield "build/layer.py", (_HERE / "layer.py").read_bytes(), 0o644
        yield "build/uv", _uv(), 0o755
        if self._handover.ca_bundle is not None:
            yield "build/ca.crt", self._handover.ca_bundle, 0o644
        if self._handover.netrc is not None:
            yield "build/netrc", self._handover.netrc, 0o600

    def _environ(self) -> tuple[tuple[str, str], ...]:
        env = dict(self._handover.env)
        env.update(
            {
                "HOME": "/build",
                "LC_ALL": "C.UTF-8",
                "NO_COLOR": "1",
                "UV_CACHE_DIR": "/cache",
                "UV_LINK_MODE": "copy",
                "UV_NO_CONFIG": "1",
                "UV_NO_PROGRESS": "1",
                "UV_PYTHON_DOWNLOADS": "never",
            }
        )
        if self._handover.ca_bundle is not None:
            env["SSL_CERT_FILE"] = "/build/ca.crt"
        if self._handover.netrc is not None:
            env["NETRC"] = "/build/netrc"
        return tuple(sorted(env.items()))

    def _install(self, container: str, lock: Lock, base: Base) -> None:
        self._run(
            container,
            ("/build/uv", "venv", "-q", "--python", base.python.executable, "/opt/venv"),
            self._environ(),
        )
        if not lock.packages:
            return
        words = ["/build/uv", "pip", "install", "--python", _PYTHON, "--no-deps", "--only-binary", ":all:"]
        if lock.hashed:
            words.append("--require-hashes")
        code, output = self._engine.run_in(
            container, (*words, "-r", "/build/requirements.txt"), self._environ(), self._reporter
        )
        if code != 0:
            raise _install_error(lock, base, output)
        self._settle_overlaps(container, lock, tuple(words), base)
        code, output = self._engine.run_in(
            container, ("/build/uv", "pip", "check", "--python", _PYTHON), self._environ(), self._reporter
        )
        if code != 0:
            self._reporter.warn(f"{lock.path} is not complete or not consistent:\n{_tail(output)}")

    def _settle_overlaps(self, container: str, lock: Lock, words: tuple[str, ...], base: Base) -> None:
        """Where two packages bring the same file, install them again one by one, so that the last wins always."""
        command = (base.python.executable, "/build/in_builder.py", "overlaps")
        found = json.loads(self._run(container, command, ()))
        names = sorted({name for clash in found for name in clash["packages"]})
        if not names:
            return
        self._reporter.warn(
            f"{', '.join(names)} bring the same files with different contents; the last by name wins"
        )
        for package in lock.packages:
            if package.name in names:
                one = f"build/only-{package.name}.txt"
                self._engine.put(container, "/", ((one, package.requirement().encode() + b"\n", 0o644),))
                self._run(
                    container,
                    (*words, "--reinstall-package", package.name, "--offline", "-r", f"/{one}"),
                    self._environ(),
                )

    def _run(self, container: str, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> str:
        code, output = self._engine.run_in(container, argv, env, self._reporter)
        if code != 0:
            raise ImageError(
                f"{argv[0].rpartition('/')[2]} failed in the builder (exit code {code}):\n{_tail(output)}"
            )
        return output

    def _take_layer(self, container: str) -> Layer:
        overlap = max((len(secret) for secret in self._handover.secrets), default=1) - 1
        with self._library.writer() as writer:
            before = b""
            for piece in self._engine.get(container, "/build/layer.tar"):
                window = before + piece
                if any(secret in window for secret in self._handover.secrets if len(secret) >= 4):
                    raise ImageError(
                        "a credential of this host was found in the environment's layer, which was not kept",
                        hint="a package wrote down the index's URL: take the password out of the URL (use netrc)",
                    )
                before = window[-overlap:] if overlap else b""
                writer.write(piece)
            digest, size = writer.commit()
        return Layer(digest, size, "mirage environment")


def _uv() -> bytes:
    """The installer's own program, from this machine's uv package. Raises ImageError where it cannot run there."""
    import uv

    if host.system() != "Linux":
        raise ImageError(
            f"the builder needs uv for Linux, and this machine's is for {host.system()}",
            hint="run mirage on Linux (a container with the engine's socket will do)",
        )
    return Path(uv.find_uv_bin()).read_bytes()


def _install_error(lock: Lock, base: Base, output: str) -> MirageError:
    text = _tail(output)
    lowered = text.lower()
    if "no space left" in lowered:
        return ImageError(
            f"the engine's disk is full:\n{text}", hint="`mirage gc` or `docker system prune` frees space"
        )
    if any(
        sign in lowered
        for sign in ("dns error", "failed to fetch", "connection refused", "timed out", "unknownissuer")
    ):
        return LockError(
            f"the packages of {lock.path} could not be downloaded:\n{text}",
            hint="check proxy, CA bundle and index of this machine (`build:` in .mirage/project.yaml), then run again",
        )
    return LockError(
        f"{lock.path} cannot be installed on {base.platform}, Python {base.python.version}:\n{text}",
        hint="make the lock for that platform and Python version, from wheels",
    )


def _tail(output: str, lines: int = 20) -> str:
    return "\n".join(f"  {line}" for line in output.strip().splitlines()[-lines:])
