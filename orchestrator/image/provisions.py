"""What the build of a source needs, fetched before it: the source distribution, and the wheels that it is built with.

Owns what is done with the logins of indexes, in a builder in which no package's code runs. The build itself has neither
login nor network (wheels.py); what it requires beyond what its pyproject.toml says, it names (docs/adr/0026).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from orchestrator.digest import Digest
from orchestrator.errors import LockError, at_line
from orchestrator.image import index_files, installer
from orchestrator.image.base import Base
from orchestrator.locks.pinned import File, Lock, Pinned, shown
from orchestrator.locks.source import LockSource

if TYPE_CHECKING:
    from orchestrator.image.wheels import Wheel, Workshop

# PEP 518 and PEP 517: what counts where a source says nothing
_USUAL = ("setuptools >= 40.8.0",)
_USUAL_BACKEND = "setuptools.build_meta:__legacy__"
_MOST = 200  # requirements of one build
_DEEPEST = 4  # sources that are built to build a source


@dataclass(frozen=True)
class Backend:
    """What a source says of its own build: the backend, the folders that it may lie in, and what it requires."""

    name: str
    paths: tuple[str, ...]
    requires: tuple[str, ...]


def backend(where: str, data: bytes) -> Backend:
    """What a pyproject.toml says of the build (PEP 518); empty bytes where there is none. Raises LockError."""
    from orchestrator.locks.source import toml

    told = toml(f"{where}: pyproject.toml", data).get("build-system", {}) if data else {}
    if not isinstance(told, dict):
        told = {}
    name, paths, requires = (
        told.get("build-backend", _USUAL_BACKEND),
        told.get("backend-path", []),
        told.get("requires", list(_USUAL)),
    )
    lists = isinstance(paths, list) and isinstance(requires, list)
    if not lists or not all(isinstance(each, str) for each in (name, *paths, *requires)):
        raise LockError(f"{where}: what its pyproject.toml says of its build has another form than PEP 518")
    return Backend(name, tuple(paths), checked(where, requires))


def checked(where: str, requires: Iterable[object]) -> tuple[str, ...]:
    """Requirements of a build in a normal form, which says names and versions, and nothing else. Raises LockError."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for each in requires:
        try:
            one = Requirement(str(each))
        except InvalidRequirement:
            raise LockError(
                f"{where}: its build requires what is no requirement: {shown(str(each)[:80])}"
            ) from None
        if one.url is not None:
            raise LockError(
                f"{where}: its build requires {one.name} from an address, which is not fetched for it",
                hint="build a wheel of it yourself, publish that on an index, and lock it",
            )
        found.append(str(one))
    if len(found) > _MOST or any(not line.isprintable() for line in found):
        raise LockError(f"{where}: what its build requires is too long, or no text")
    return tuple(dict.fromkeys(found))


class Provisions:
    """A builder with the logins, begun where something is to be fetched, and gone when this is left."""

    def __init__(
        self,
        shop: Workshop,
        lock: Lock,
        package: Pinned,
        base: Base,
        image_id: str,
        key: Digest,
        build: Callable[[Pinned, int], Wheel],
        depth: int = 0,
    ) -> None:
        self._shop = shop
        self._lock = lock
        self._package = package
        self._base = base
        self._image_id = image_id
        self._key = key
        self._build = build
        self._depth = depth
        self._env = installer.also_from(shop.env(), package.index)
        self._stack = ExitStack()
        self._opened = ""
        self._count = 0
        self._made: dict[str, bytes] = {}  # wheels that were built for this build, by file name

    def __enter__(self) -> Provisions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def _container(self) -> str:
        if not self._opened:
            self._opened = self._stack.enter_context(
                self._shop.container(self._image_id, self._key, cache=False)
            )
            self._shop.engine.put(self._opened, "/", ((f"{installer.LINKS[1:]}/.mirage", b"", 0o644),))
        return self._opened

    def source(self) -> tuple[str, bytes]:
        """The package's source distribution, by one of the lock's hashes. Raises LockError."""
        package = self._package
        if package.url:
            urls = {(package.name, package.files[0].name): package.url}
            order = index_files.order(package, urls)
        else:
            plain = f"{replace(package, hashes=(), extras=()).requirement()}\n".encode()
            told = self._listed(plain, "--no-binary", package.name, alone=(package.name,))
            order = self._allowed(told)
        return order.file, self._fetched((order,))[order.file]

    def _allowed(self, told: LockSource) -> index_files.Order:
        from orchestrator.locks import pylock

        package, urls = self._package, index_files.places(told)
        for offered in pylock.read(told).packages:
            for file in offered.files:
                hashes = tuple(value for value in file.hashes if value in package.hashes)
                if hashes and not file.is_wheel and offered.name == package.name:
                    return index_files.order(replace(offered, files=(File(file.name, hashes),)), urls)
        raise LockError(
            f"{at_line(self._lock.path, package.line or None)} names other files of {package.name}=={package.version} "
            "than the index has now, or has no source distribution of it",
            hint="if you trust the new files, write the hashes anew",
        )

    def wheels(self, requires: tuple[str, ...]) -> dict[str, bytes]:
        """The wheels by which requirements and all that they require are met, by file name. Raises LockError."""
        if not requires:
            return {}
        lines = "".join(f"{line}\n" for line in requires).encode()
        try:
            told = self._listed(lines, "--only-binary", ":all:")
        except installer.NotInstallable as error:
            if not self._build_those_without(requires, error):
                raise
            told = self._listed(lines, "--only-binary", ":all:")
        urls, found, orders = index_files.places(told), {}, []
        for each in index_files.chosen(told, self._base).values():
            name = each.files[0].name if each.files else ""
            if name in self._made:
                found[name] = self._made[name]
            else:
                orders.append(index_files.order(each, urls))
        return found | self._fetched(orders)

    def _build_those_without(self, requires: tuple[str, ...], error: LockError) -> bool:
        """Build, in the same way, what is required and has no wheel; whether there was such."""
        if self._depth >= _DEEPEST:
            raise error
        from packaging.requirements import Requirement

        before = len(self._made)
        for line in requires:
            name, plain = Requirement(line).name, f"{line}\n".encode()
            try:
                self._listed(plain, "--only-binary", ":all:", alone=(name,))
            except installer.NotInstallable:
                told = self._listed(plain, "--no-binary", name, alone=(name,))
                for package in index_files.chosen(told, self._base).values():
                    made = self._build(replace(package, build=True), self._depth + 1)
                    data = b"".join(self._shop.library.read(made.digest))
                    self._made[made.file] = data
                    links = ((f"{installer.LINKS[1:]}/{made.file}", data, 0o644),)
                    self._shop.engine.put(self._container, "/", links)
        return len(self._made) > before

    def _listed(self, lines: bytes, *options: str, alone: tuple[str, ...] = ()) -> LockSource:
        self._count += 1
        env = installer.beside_folder(self._env, installer.LINKS) if self._made else self._env
        return index_files.listed(
            self._shop,
            self._container,
            self._lock,
            self._base,
            env,
            lines,
            f"ask{self._count}",
            *options,
            alone=alone,
        )

    def _fetched(self, orders: Iterable[index_files.Order]) -> dict[str, bytes]:
        wanted = tuple(orders)
        if not wanted:
            return {}
        names = index_files.fetch(self._shop, self._container, self._base, self._env, wanted)
        get = self._shop.engine.get
        return {name: b"".join(get(self._container, f"{index_files.FETCHED}/{name}")) for name in names}
