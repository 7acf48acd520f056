"""The builder: a throw-away container in which uv installs a lock, and the layer that is taken out of it.

What the host hands over (handover.py) reaches the builder's commands and is provably absent from the layer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.digest import Digest
from orchestrator.engine_values import ContainerSpec, Tmpfs
from orchestrator.errors import ImageError, LockError
from orchestrator.image import downloads, foreign, installer, logins, wheel_bank, wheels
from orchestrator.image.base import Base
from orchestrator.image.handover import Handover
from orchestrator.image.installer import Batch
from orchestrator.image.library import Library
from orchestrator.image.loading import ensure
from orchestrator.image.oci import Layer, Platform
from orchestrator.image.removals import Removals, labels_of, remove_stale
from orchestrator.image.variation import USUAL, Manner
from orchestrator.image.wheel_bank import Banked
from orchestrator.image.wheels import Wheel
from orchestrator.locks.lock import parse as parse_lock
from orchestrator.locks.pinned import Lock, Pinned
from orchestrator.ports import Engine, Reporter

CACHE_VOLUME = "mirage-uv-cache"
_LONGEST = "86400"  # seconds that a builder lives when nobody ends it
_PLAIN = (("LC_ALL", "C.UTF-8"), ("PYTHONHASHSEED", "0"))
_HERE = Path(__file__).parent


class Builder:
    """Builds one environment in one container, which is gone when this is left."""

    def __init__(
        self,
        engine: Engine,
        library: Library,
        reporter: Reporter,
        handover: Handover,
        network: str,
        manner: Manner = USUAL,
        folders: Callable[[str], bytes] | None = None,
    ) -> None:
        self.engine = engine
        self.library = library
        self.reporter = reporter
        self._handover = handover
        self._network = "bridge" if network == "default" else network
        self._manner = manner
        self._folders = folders
        self._python, self._platform = "", Platform("", "")
        self._told: set[str] = set()
        self._netrc: bytes | None = None
        library.used(f"volume-{CACHE_VOLUME}")
        self._removals = Removals(engine, reporter)

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._removals.wait()

    def build(self, lock: Lock, base: Base, key: Digest) -> tuple[Layer, Digest]:
        """Install, finish and take the layer."""
        image_id = ensure(self.engine, base.image, base.tag, (), self.library.read, reporter=self.reporter)
        self._begin(lock, base)
        remove_stale(self.engine, self.library, key)
        banked = wheel_bank.find(self.library, key, lock)
        if banked is not None:
            return self._from_bank(banked, lock, base, image_id, key)
        lock, made = wheels.build(self, lock, base, image_id, key)
        try:
            return self._build(lock, made, base, image_id, key)
        except installer.NotInstallable as error:
            if all(package.files for package in lock.packages):
                raise
            known = frozenset(wheel.package for wheel in made)
            lock = self._with_sources_marked(lock, base, image_id, key, error)
            again, more = wheels.build(self, wheels.left(lock, known), base, image_id, key)
            return self._build(again, (*made, *more), base, image_id, key)

    def _begin(self, lock: Lock, base: Base) -> None:
        self._python, self._platform = base.python.executable, base.platform
        self._netrc = logins.narrowed(self._handover.netrc, logins.hosts_of(dict(self._handover.env), lock))

    def _from_bank(
        self, banked: tuple[Banked, ...], lock: Lock, base: Base, image_id: str, key: Digest
    ) -> tuple[Layer, Digest]:
        """The environment from wheels of the store alone: the builder gets no network."""
        self.reporter.note("all of its wheels are kept: no index is asked")
        self._network = "none"
        made = tuple(each.wheel for each in banked)
        return self._build(wheel_bank.as_kept(lock, banked), made, base, image_id, key)

    def resolve(self, lock: Lock, wanted: tuple[str, ...], base: Base, key: Digest) -> bytes:
        """Requirements with everything pinned and hashed, as the index has it now. Raises LockError."""
        image_id = ensure(self.engine, base.image, base.tag, (), self.library.read)
        self._begin(lock, base)
        remove_stale(self.engine, self.library, key)
        files = {"in": wanted, "constraints": lock.constraints}
        with self.container(image_id, key) as container:
            self.engine.put(
                container,
                "/",
                [
                    (f"build/{name}.txt", "".join(f"{x}\n" for x in lines).encode(), 0o644)
                    for name, lines in files.items()
                ],
            )
            env = installer.places(self.env(), lock)
            words: tuple[str, ...] = ("pip", "compile", "--python", base.python.executable)
            words += ("--generate-hashes", "--no-header", "--no-annotate", "-o", "/build/out.txt")
            words += ("-c", "/build/constraints.txt") if lock.constraints else ()
            # to know what a source distribution requires, the installer runs its code, beside the login
            sealed = bool(self._handover.secrets or self._netrc)
            words += ("--only-binary", ":all:") if sealed else ()
            try:
                self.uv(container, lock, base, (*words, "/build/in.txt"), env)
            except installer.NotInstallable as error:
                if not sealed:
                    raise
                raise LockError(
                    error.message,
                    hint="this machine has a login for an index, so that what has no wheel is not resolved (docs/locks.md): "
                    "resolve it without that login, or write a lock",
                ) from error
            return b"".join(self.engine.get(container, "/build/out.txt"))

    def keep_wheels(self, lock: Lock, base: Base, key: Digest, manifest: bytes) -> None:
        """Fetch the wheels of an environment that was built before, and keep them in the store."""
        image_id = ensure(self.engine, base.image, base.tag, (), self.library.read)
        self._begin(lock, base)
        lock, made = wheels.build(self, lock, base, image_id, key)
        try:
            marked = wheels.without_wheel(self, lock, base, image_id, key)
        except LockError:
            marked = lock
        lock, more = wheels.build(
            self, wheels.left(marked, frozenset(w.package for w in made)), base, image_id, key
        )
        with self.container(image_id, key) as container:
            wheel_bank.keep(self, container, lock, (*made, *more), base, key, manifest)

    def _with_sources_marked(
        self, lock: Lock, base: Base, image_id: str, key: Digest, error: LockError
    ) -> Lock:
        """The lock with packages marked that the index has no wheel of; raises ``error`` where there is none."""
        try:
            marked = wheels.without_wheel(self, lock, base, image_id, key)
        except installer.NotInstallable:
            raise error from None
        if marked == lock:
            raise error
        return marked

    def _build(
        self, lock: Lock, made: tuple[Wheel, ...], base: Base, image_id: str, key: Digest
    ) -> tuple[Layer, Digest]:
        with self.container(image_id, key) as container:
            self.engine.put(container, "/", self._helpers())
            for wheel in made:
                data = b"".join(self.library.read(wheel.digest))
                self.engine.put(container, "/", ((f"{installer.WHEELS[1:]}/{wheel.file}", data, 0o644),))
            used = self._install(container, lock, base, frozenset(wheel.package for wheel in made))
            self.command(container, self._helper(base, "finish", "/build"), _PLAIN)
            layer = self._take_layer(container)
            installed = json.loads(b"".join(self.engine.get(container, "/build/installed.json")))
        sources = {wheel.package: wheel for wheel in made}
        for package in installed:
            package["hashes"] = [h for p in used.packages if p.name == package["name"] for h in p.hashes]
            if package["name"] in sources and sources[package["name"]].source:
                wheel = sources[package["name"]]
                package["built"] = {
                    "from": list(wheel.source),
                    "file": wheel.file,
                    "compiled": wheel.compiled,
                }
        return layer, self.library.put(canonical.encode(installed))

    @contextmanager
    def container(
        self, image_id: str, key: Digest, *, cache: bool = True, alone: bool = False
    ) -> Iterator[str]:
        """A fresh container of the base with the installer in it; it is being removed when this is left.

        Without ``cache`` it does not see what all environments share. ``alone`` it has neither network nor anything of
        the host: for code of packages that runs in it.
        """
        container = self.engine.create(
            ContainerSpec(
                image=image_id,
                argv=("sleep", _LONGEST),
                labels=labels_of(self.library, key),
                user="0:0",
                network="none" if alone else self._network,
                read_only=False,
                volumes=((self._manner.volume or CACHE_VOLUME, "/cache"),) if cache else (),
                tmpfs=tuple(Tmpfs(folder, "rw,exec") for folder in self._manner.memory_folders),
            )
        )
        try:
            self.engine.start(container)
            self.engine.put(container, "/", self._files(alone=alone))
            # podman's / is read-only even to root without capabilities: the installer cannot make it
            if not cache:
                self.engine.put(container, "/", (("cache/.mirage", b"", 0o644),))
            prologue = self._manner.prologue(self._python)
            if prologue:
                self.engine.run_in(container, prologue, (), self.reporter)
            yield container
        except BaseException:
            self.engine.remove(container)
            raise
        self._removals.begin(container, self._python)

    def _files(self, *, alone: bool) -> Iterator[tuple[str, bytes, int]]:
        yield "build/uv", foreign.program(self._platform, self.library.folder), 0o755
        if self._handover.ca_bundle is not None and not alone:
            yield "build/ca.crt", self._handover.ca_bundle, 0o644
        if self._netrc is not None and not alone:
            yield "build/netrc", self._netrc, 0o600
        yield from self._manner.files()

    def _helpers(self) -> Iterator[tuple[str, bytes, int]]:
        yield "build/in_builder.py", (_HERE / "in_builder.py").read_bytes(), 0o644
        yield "build/layer.py", (_HERE / "layer.py").read_bytes(), 0o644

    def env(self) -> installer.Env:
        """The installer's environment: what the host hands over, and nothing else of it."""
        env = {**dict(self._handover.env), **dict(self.bare_env())}
        if self._handover.ca_bundle is not None:
            env["SSL_CERT_FILE"] = "/build/ca.crt"
        if self._netrc is not None:
            env["NETRC"] = "/build/netrc"
        return tuple(sorted(env.items()))

    def bare_env(self) -> installer.Env:
        """The installer's environment without anything of the host."""
        return (
            ("HOME", "/build"),
            ("LC_ALL", "C.UTF-8"),
            ("NO_COLOR", "1"),
            ("UV_CACHE_DIR", "/cache"),
            ("UV_LINK_MODE", "copy"),
            ("UV_NO_CONFIG", "1"),
            ("UV_NO_PROGRESS", "1"),
            ("UV_PYTHON_DOWNLOADS", "never"),
        )

    def _install(self, container: str, lock: Lock, base: Base, built: frozenset[str]) -> Lock:
        """Install the lock; gives it with the hashes that were used."""
        venv = ("/build/uv", "venv", "-q", "--python", base.python.executable, "/opt/venv")
        self.command(container, venv, self.env())
        if not lock.packages:
            return lock
        if not lock.hashed:
            lock = self._with_hashes(container, lock, base, built)
        batches = self._put(container, lock, built)
        self._each(container, lock, base, batches, ())
        self._settle(container, lock, base, batches)
        check = ("/build/uv", "pip", "check", "--python", installer.PYTHON)
        code, output = self._run(container, check, self.env())
        if code != 0:
            self.reporter.warn(f"{lock.path} is not complete or not consistent:\n{installer.tail(output)}")
        return lock

    def _put(self, container: str, lock: Lock, built: frozenset[str]) -> list[Batch]:
        found = installer.batches(lock, self.env(), built)
        files = ((each.file[1:], each.content(backwards=self._manner.backwards), 0o644) for each in found)
        self.engine.put(container, "/", files)
        return found

    def _each(
        self, container: str, lock: Lock, base: Base, batches: list[Batch], options: tuple[str, ...]
    ) -> None:
        for batch in batches:
            self.uv(container, lock, base, (*installer.INSTALL, *options, "-r", batch.file), batch.env)

    def _with_hashes(self, container: str, lock: Lock, base: Base, built: frozenset[str]) -> Lock:
        """The lock with the hashes that the index tells for packages which have none, where they apply here."""
        packages: list[Pinned] = []
        for batch in self._put(container, lock, built):
            target = "/build/hashed.txt"
            if not all(package.hashes for package in batch.packages):
                self.uv(container, lock, base, (*installer.HASHES, "-o", target, batch.file), batch.env)
                told = parse_lock(target, b"".join(self.engine.get(container, target)))
                hashes = {package.name: package.hashes for package in told.packages}
                packages += [
                    replace(package, hashes=package.hashes or hashes[package.name])
                    for package in batch.packages
                    if package.name in hashes
                ]
            else:
                packages += batch.packages
        return replace(lock, packages=tuple(sorted(packages, key=lambda package: package.name)))

    def _settle(self, container: str, lock: Lock, base: Base, batches: list[Batch]) -> None:
        """Install again what the cache volume gave damaged (an engine that died while it wrote there), then,
        one by one, packages that bring the same file, so that the last by name wins always.
        """
        found = self._inspect(container, base)
        if found["damaged"]:
            names = found["damaged"]
            again = tuple(w for n in names for w in ("--reinstall-package", n, "--refresh-package", n))
            self._each(container, lock, base, batches, again)
            found = self._inspect(container, base)
            if found["damaged"]:
                names = ", ".join(found["damaged"])
                self.reporter.warn(f"{names}: files are not what the package's own RECORD says")
        clashing = sorted({name for clash in found["overlaps"] for name in clash["packages"]})
        if clashing:
            self.reporter.warn(
                f"{', '.join(clashing)} bring the same files with different contents; the last by name wins"
            )
        places = [(package, batch) for batch in batches for package in batch.packages]
        for package, batch in sorted(places, key=lambda place: place[0].name):
            if package.name in clashing:
                one = replace(batch, packages=(package,), file=f"/build/only-{package.name}.txt")
                self.engine.put(container, "/", ((one.file[1:], one.content(), 0o644),))
                options = ("--reinstall-package", package.name, "--offline")
                self._each(container, lock, base, [one], options)

    def _inspect(self, container: str, base: Base) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command(container, self._helper(base, "inspect"), _PLAIN))
        return found

    def _helper(self, base: Base, *words: str) -> tuple[str, ...]:
        return (base.python.executable, "/build/in_builder.py", *words)

    def uv(self, container: str, lock: Lock, base: Base, words: tuple[str, ...], env: installer.Env) -> None:
        """Run uv on the lock; what goes wrong there is the lock's or the network's fault."""
        with self.downloads(container):
            code, output = self._run(container, ("/build/uv", *words), env)
        for line in output.splitlines():
            told = line.removeprefix("warning: ")
            if "yanked" in line and told != line and told not in self._told:
                self._told.add(told)
                self.reporter.warn(f"{lock.path}: {told}")
        if code != 0:
            raise installer.failure(lock, base, self._hide(output))

    def downloads(self, container: str) -> AbstractContextManager[None]:
        """Within this it is told how much of packages has come."""
        return downloads.told(self.engine, container, self.reporter)

    def command(self, container: str, argv: tuple[str, ...], env: installer.Env) -> str:
        """Run a program in the builder. Raises ImageError where it fails."""
        code, output = self._run(container, argv, env)
        if code != 0:
            raise installer.broken(argv[0], code, self._hide(output))
        return output

    def _run(self, container: str, argv: tuple[str, ...], env: installer.Env) -> tuple[int, str]:
        manner = self._manner
        return self.engine.run_in(
            container, manner.argv(self._python, argv), manner.env(env), self.reporter, user=manner.user
        )

    def _hide(self, output: str) -> str:
        for secret in self._handover.secrets:
            output = output.replace(os.fsdecode(secret), "****")
        return output

    def folder(self, path: str) -> bytes:
        """A folder of the project's commit as a tar."""
        assert self._folders is not None
        return self._folders(path)

    def leaks(self, data: bytes) -> bool:
        """Whether a credential of the host is in it."""
        return any(secret in data for secret in self._handover.secrets)

    def _take_layer(self, container: str) -> Layer:
        overlap = max((len(secret) for secret in self._handover.secrets), default=1) - 1
        with self.library.writer() as writer:
            before = b""
            for piece in self.engine.get(container, "/build/layer.tar"):
                window = before + piece
                if self.leaks(window):
                    raise ImageError(
                        "a credential of this host was found in the environment's layer, which was not kept",
                        hint="a package wrote down the index's URL: take the password out of the URL (use netrc)",
                    )
                before = window[-overlap:] if overlap else b""
                writer.write(piece)
            digest, size = writer.commit()
        return Layer(digest, size, "mirage environment")
