"""The builder: a throw-away container in which uv installs a lock, and the layer that is taken out of it.

Owns the container's life. What the host hands over (handover.py) reaches the builder's commands and is
provably absent from the layer.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform as host
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of
from orchestrator.errors import ImageError, LockError, MirageError
from orchestrator.image.base import Base
from orchestrator.image.handover import Handover
from orchestrator.image.library import Library
from orchestrator.image.loading import ensure
from orchestrator.image.oci import Layer
from orchestrator.locks.lock import Lock
from orchestrator.locks.lock import parse as parse_lock
from orchestrator.ports import ContainerSpec, Engine, Reporter

BUILDER_LABEL = "flow.mirage.builder"
CACHE_VOLUME = "mirage-uv-cache"
_OWNER_LABEL = "flow.mirage.builder-owner"
_LONGEST = "86400"  # seconds that a builder lives when nobody ends it
_PYTHON = "/opt/venv/bin/python"
_REQUIREMENTS = "/build/requirements.txt"
_PIP = ("--python", _PYTHON, "--no-deps", "--only-binary", ":all:")
_INSTALL = ("pip", "install", *_PIP, "--require-hashes")
_HASHES = ("pip", "compile", *_PIP, "--generate-hashes", "--no-header", "--no-annotate")
_PLAIN = (("LC_ALL", "C.UTF-8"), ("PYTHONHASHSEED", "0"))
_HERE = Path(__file__).parent


class Builder:
    """Builds one environment in one container, which is gone afterwards."""

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
        self._remove_stale(key)
        with self._container(image_id, key) as container:
            self._engine.put(container, "/", self._files(lock))
            used = self._install(container, lock, base)
            self._run(container, self._helper(base, "finish", "/build"), _PLAIN)
            layer = self._take_layer(container)
            installed = json.loads(b"".join(self._engine.get(container, "/build/installed.json")))
        for package in installed:
            package["hashes"] = [h for p in used.packages if p.name == package["name"] for h in p.hashes]
        return layer, self._library.put(canonical.encode(installed))

    def _remove_stale(self, key: Digest) -> None:
        """Remove builders that dead processes left: those that ended by themselves, and those of our cache that
        nobody holds the lock for (a process makes and removes its builder while it holds it; we hold ``key``'s).
        """
        for found in self._engine.find(BUILDER_LABEL):
            labels = dict(found.labels)
            of = labels.get(BUILDER_LABEL, "")
            mine = labels.get(_OWNER_LABEL) == self._library.cache_id
            if found.status == "exited" or (mine and (of == hex_of(key) or self._abandoned(of))):
                self._engine.remove(found.id)

    def _abandoned(self, key: str) -> bool:
        try:
            with self._library.lock_path(f"env-{key}").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def _container(self, image_id: str, key: Digest) -> Iterator[str]:
        container = self._engine.create(
            ContainerSpec(
                image=image_id,
                argv=("sleep", _LONGEST),
                labels=((BUILDER_LABEL, hex_of(key)), (_OWNER_LABEL, self._library.cache_id)),
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

    def _install(self, container: str, lock: Lock, base: Base) -> Lock:
        """Install the lock; gives it with the hashes that were used."""
        venv = ("/build/uv", "venv", "-q", "--python", base.python.executable, "/opt/venv")
        self._run(container, venv, self._environ())
        if not lock.packages:
            return lock
        if not lock.hashed:
            lock = self._with_hashes(container, lock, base)
        self._uv(container, lock, base, (*_INSTALL, "-r", _REQUIREMENTS))
        self._settle(container, lock, base)
        check = ("/build/uv", "pip", "check", "--python", _PYTHON)
        code, output = self._engine.run_in(container, check, self._environ(), self._reporter)
        if code != 0:
            self._reporter.warn(f"{lock.path} is not complete or not consistent:\n{_tail(output)}")
        return lock

    def _with_hashes(self, container: str, lock: Lock, base: Base) -> Lock:
        """The lock with the hashes that the index tells for packages which have none, where they apply here."""
        target = "/build/hashed.txt"
        self._uv(container, lock, base, (*_HASHES, "-o", target, _REQUIREMENTS))
        told = parse_lock(target, b"".join(self._engine.get(container, target)))
        hashes = {package.name: package.hashes for package in told.packages}
        packages = tuple(
            replace(package, hashes=package.hashes or hashes[package.name])
            for package in lock.packages
            if package.name in hashes
        )
        lock = replace(lock, packages=packages)
        self._engine.put(container, "/", ((_REQUIREMENTS[1:], lock.requirements(), 0o644),))
        return lock

    def _settle(self, container: str, lock: Lock, base: Base) -> None:
        """Install again what the cache volume gave damaged (an engine that died while it wrote there), then,
        one by one, packages that bring the same file, so that the last by name wins always.
        """
        found = self._inspect(container, base)
        if found["damaged"]:
            names = found["damaged"]
            again = [w for n in names for w in ("--reinstall-package", n, "--refresh-package", n)]
            self._uv(container, lock, base, (*_INSTALL, *again, "-r", _REQUIREMENTS))
            found = self._inspect(container, base)
            if found["damaged"]:
                names = ", ".join(found["damaged"])
                self._reporter.warn(f"{names}: files are not what the package's own RECORD says")
        names = sorted({name for clash in found["overlaps"] for name in clash["packages"]})
        if names:
            self._reporter.warn(
                f"{', '.join(names)} bring the same files with different contents; the last by name wins"
            )
        for package in lock.packages:
            if package.name in names:
                one = f"build/only-{package.name}.txt"
                self._engine.put(container, "/", ((one, package.requirement().encode() + b"\n", 0o644),))
                again = ["--reinstall-package", package.name, "--offline", "-r", f"/{one}"]
                self._uv(container, lock, base, (*_INSTALL, *again))

    def _inspect(self, container: str, base: Base) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._run(container, self._helper(base, "inspect"), _PLAIN))
        return found

    def _helper(self, base: Base, *words: str) -> tuple[str, ...]:
        return (base.python.executable, "/build/in_builder.py", *words)

    def _uv(self, container: str, lock: Lock, base: Base, words: tuple[str, ...]) -> None:
        """Run uv on the lock; what goes wrong there is the lock's or the network's fault."""
        code, output = self._engine.run_in(container, ("/build/uv", *words), self._environ(), self._reporter)
        if code != 0:
            raise _install_error(lock, base, self._hide(output))

    def _run(self, container: str, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> str:
        code, output = self._engine.run_in(container, argv, env, self._reporter)
        if code != 0:
            raise ImageError(
                f"{argv[0].rpartition('/')[2]} failed in the builder (exit code {code}):\n"
                f"{_tail(self._hide(output))}"
            )
        return output

    def _hide(self, output: str) -> str:
        for secret in self._handover.secrets:
            output = output.replace(os.fsdecode(secret), "****")
        return output

    def _take_layer(self, container: str) -> Layer:
        overlap = max((len(secret) for secret in self._handover.secrets), default=1) - 1
        with self._library.writer() as writer:
            before = b""
            for piece in self._engine.get(container, "/build/layer.tar"):
                window = before + piece
                if any(secret in window for secret in self._handover.secrets):
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
        return ImageError(f"the engine's disk is full:\n{text}", hint="`docker system prune` frees space")
    if any(
        sign in lowered
        for sign in ("dns error", "failed to fetch", "connection refused", "timed out", "unknownissuer")
    ):
        return LockError(
            f"the packages of {lock.path} could not be downloaded:\n{text}",
            hint="check proxy, CA bundle and index of this machine (`build:` in .mirage/project.yaml), then run again",
        )
    if "hash mismatch" in lowered:
        return LockError(
            f"{lock.path} names other files than the index has now:\n{text}",
            hint="if you trust the new files, write the hashes anew: "
            f"`uv pip compile --generate-hashes {lock.path} -o {lock.path}`",
        )
    return LockError(
        f"{lock.path} cannot be installed on {base.platform}, Python {base.python.version}:\n{text}",
        hint="make the lock for that platform and Python version, from wheels",
    )


def _tail(output: str, lines: int = 20) -> str:
    return "\n".join(f"  {line}" for line in output.strip().splitlines()[-lines:])
