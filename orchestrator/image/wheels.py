"""Wheels of packages that have only a source distribution: built once, in a builder of their own, and kept.

What is run of a package sees neither a login nor a network: all that its build needs is fetched before (provisions.py).
A wheel is known by its source distribution, the base and the installer; who has it already does not build it again,
so that the environment stays the same where the same build would give other bytes.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError, LockError, at_line
from orchestrator.image import index_files, installer, provisions, uv_version, vcs_source
from orchestrator.image.base import Base
from orchestrator.image.library import Library
from orchestrator.locks import local, requirement
from orchestrator.locks.pinned import File, Lock, Pinned
from orchestrator.ports import Engine, Reporter
from orchestrator.single_flight import single_flight

_VENV = "/build/throw-away"
_CACHE = "/build/built"  # not the shared cache: what it holds may have been built on another base
# the installer keeps what it built as one file below sdists-vN/
_FIND = (
    "import pathlib, shutil; found = list(pathlib.Path('/build/built').glob('sdists-v*/**/*.whl'));"
    "print(*(path.name for path in found if path.is_file()), sep='\\n');"
    "[shutil.copyfile(path, '/build/' + path.name) for path in found if path.is_file()]"
)
_ASKING = "/build/asking"  # an environment in which the backend is asked what else it needs
_ASKS = Path(__file__).parent / "asks_in_builder.py"
_ROUNDS = 3  # times that a build may name what it needs
_UNPACK = (
    "import pathlib, shutil, sys; shutil.unpack_archive(sys.argv[1], '/build/source');"
    "found = [path for path in pathlib.Path('/build/source').iterdir() if path.is_dir()];"
    "print(found[0] if len(found) == 1 else '/build/source')"
)
_TELL = (
    "import pathlib, sys; path = pathlib.Path(sys.argv[1], 'pyproject.toml');"
    "data = path.read_bytes()[:1 << 20] if path.is_file() else b'';"
    "pathlib.Path('/build/pyproject.toml').write_bytes(data)"
)
_PURE = re.compile(r".*-none-any\.whl")
# what build tools ask for a fixed time, order and locale
_STEADY = (("SOURCE_DATE_EPOCH", "315532800"), ("PYTHONHASHSEED", "0"), ("TZ", "UTC"))


@dataclass(frozen=True)
class Wheel:
    """A wheel that was built here or elsewhere, and what from."""

    package: str
    file: str
    digest: Digest
    source: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether it holds machine code: a compiler may give other bytes elsewhere."""
        return _PURE.fullmatch(self.file) is None


class Workshop(Protocol):
    """What a builder lends for this."""

    engine: Engine
    library: Library
    reporter: Reporter

    def container(
        self, image_id: str, key: Digest, *, cache: bool = True, alone: bool = False
    ) -> AbstractContextManager[str]:
        """A fresh container of the base with the installer in it, gone afterwards; ``alone``: no network, no login."""

    def env(self) -> installer.Env:
        """The installer's environment."""

    def bare_env(self) -> installer.Env:
        """The same without anything of the host."""

    def uv(self, container: str, lock: Lock, base: Base, words: tuple[str, ...], env: installer.Env) -> None:
        """Run the installer. Raises LockError."""

    def downloads(self, container: str) -> AbstractContextManager[None]:
        """Within this it is told how much of packages has come."""

    def command(self, container: str, argv: tuple[str, ...], env: installer.Env) -> str:
        """Run a program. Raises ImageError."""

    def folder(self, path: str) -> bytes:
        """A folder of the project's commit as a tar."""

    def leaks(self, data: bytes) -> bool:
        """Whether a credential of the host is in it."""


def build(
    shop: Workshop, lock: Lock, base: Base, image_id: str, key: Digest
) -> tuple[Lock, tuple[Wheel, ...]]:
    """The lock with a wheel in the place of each source distribution, and those wheels."""
    made: dict[str, Wheel] = {}
    packages: list[Pinned] = []
    for package in lock.packages:
        if package.build:
            wheel = _wheel(shop, lock, package, base, image_id, key)
            made[package.name] = wheel
            _, version = requirement.name_and_version(lock.path, wheel.file)
            files = (File(wheel.file, (str(wheel.digest),)),)
            package = replace(
                package, version=version, hashes=(str(wheel.digest),), url="", index=None, files=files, vcs=""
            )
        packages.append(package)
    compiled = [package for package in packages if package.name in made and made[package.name].compiled]
    if compiled:
        shop.reporter.warn(
            f"{installer.names(tuple(compiled))} has no wheel for {base.platform}, and was compiled here. The wheel is "
            "kept in the store; built anew elsewhere it may come out with other bytes"
        )
    return replace(lock, packages=tuple(packages)), tuple(made.values())


def without_wheel(shop: Workshop, lock: Lock, base: Base, image_id: str, key: Digest) -> Lock:
    """The lock with the packages marked that the index has only as source distribution, their hashes chosen.

    For locks that name no files. What the index says is told by the installer, which builds nothing for it.
    """
    marked: dict[str, Pinned] = {}
    with shop.container(image_id, key, cache=False) as container:
        for number, batch in enumerate(installer.batches(lock, shop.env(), frozenset())):
            known = tuple(package for package in batch.packages if not package.files)
            if not known:
                continue
            plain = replace(batch, packages=tuple(replace(package, hashes=()) for package in known))
            names = [package.name for package in known]
            told = index_files.listed(
                shop, container, lock, base, batch.env, plain.content(), f"known{number}", alone=names
            )
            found = index_files.chosen(told, base)
            for package in known:
                chosen = found.get(package.name)
                if chosen is not None and chosen.build:
                    marked[package.name] = _marked(lock, package, chosen)
    return replace(lock, packages=tuple(marked.get(each.name, each) for each in lock.packages))


def left(lock: Lock, done: frozenset[str]) -> Lock:
    """The lock in which only what has no wheel yet is to be built."""
    packages = (replace(each, build=False) if each.name in done else each for each in lock.packages)
    return replace(lock, packages=tuple(packages))


def _marked(lock: Lock, package: Pinned, chosen: Pinned) -> Pinned:
    if package.hashes and not set(package.hashes) & set(chosen.hashes):
        raise LockError(
            f"{lock.path} names other files of {package.name} than the index has now: the only one that could be used "
            f"is {chosen.files[0].name} ({', '.join(chosen.hashes)})",
            hint="if you trust it, write the hashes anew",
        )
    return replace(package, hashes=chosen.hashes, files=chosen.files, build=True, extras=())


def _wheel(
    shop: Workshop, lock: Lock, package: Pinned, base: Base, image_id: str, key: Digest, depth: int = 0
) -> Wheel:
    manifest = canonical.encode(
        {
            "schema": "mirage-wheel-key/1",
            "name": package.name,
            "version": package.version,
            "source": list(_source(package)),
            "base": base.digest,
            "platform": str(base.platform),
            "installer": f"uv {uv_version.installed()}",
        }
    )
    wheel_key = of_bytes(manifest)
    known = _known(shop.library, wheel_key, package)
    if known is not None:
        return known

    def needed(other: Pinned, depth: int) -> Wheel:
        return _wheel(shop, lock, other, base, image_id, key, depth)

    with single_flight(
        shop.library.lock_path(f"wheel-{hex_of(wheel_key)}"), f"the wheel of {package.name}", shop.reporter
    ) as told:
        known = _known(shop.library, wheel_key, package)
        if known is not None:
            return known
        told.stage(
            "environment",
            f"building {package.name} {package.version} from its source distribution"
            if not package.vcs
            else f"building {package.name} from {local.folder_of(package.vcs) or package.vcs}",
        )
        with provisions.Provisions(shop, lock, package, base, image_id, key, needed, depth) as before:
            source = None if package.vcs else before.source()
            with shop.container(image_id, key, cache=False, alone=True) as container:
                file, data = _built(shop, container, lock, package, base, before, source)
        digest = shop.library.put(data)
        result: dict[str, Json] = {
            "digest": digest,
            "size": len(data),
            "created": str(time.time_ns()),
            "file": file,
        }
        others = shop.library.keep("wheel", wheel_key, manifest, result)
        if others:
            shop.reporter.warn(
                f"drift: {file} is {digest} now, and was built before as {others}; the first is used where it is"
            )
        return Wheel(package.name, file, digest, _source(package))


def _source(package: Pinned) -> tuple[str, ...]:
    """What a wheel is built from: a source distribution by its hashes, a commit, or a folder by what it has."""
    return (package.vcs,) if package.vcs else package.hashes


def _known(library: Library, key: Digest, package: Pinned) -> Wheel | None:
    found = library.find("wheel", key)
    if found is None or not library.has(parse_digest(found["digest"])):
        return None
    return Wheel(package.name, str(found["file"]), parse_digest(found["digest"]), _source(package))


def _built(
    shop: Workshop,
    container: str,
    lock: Lock,
    package: Pinned,
    base: Base,
    before: provisions.Provisions,
    source: tuple[str, bytes] | None,
) -> tuple[str, bytes]:
    """Build it in a container without network and login; what it names as missing is fetched outside, and tried again."""
    where = at_line(lock.path, package.line or None)
    told = {**dict(installer.from_folder(shop.bare_env(), installer.LINKS)), **dict(_STEADY)}
    told |= dict(vcs_source.versions(package)) if package.vcs else {}
    env = tuple(sorted(told.items()))
    python = base.python.executable
    shop.engine.put(container, "/", ((f"{installer.LINKS[1:]}/.mirage", b"", 0o644),))
    what, folder = _what(shop, container, lock, package, base, source)
    shop.command(container, (python, "-I", "-c", _TELL, folder), _STEADY)
    backend = provisions.backend(
        f"{where}: {package.name}", b"".join(shop.engine.get(container, "/build/pyproject.toml"))
    )
    shop.uv(container, lock, base, ("venv", "-q", "--python", python, _VENV), env)
    words: tuple[str, ...] = ("pip", "install", "--python", f"{_VENV}/bin/python", "--no-deps")
    words += ("--no-binary", package.name, "--cache-dir", _CACHE, *what)
    requires = backend.requires
    for last in (*(False,) * _ROUNDS, True):
        for file, data in before.wheels(requires).items():
            shop.engine.put(container, "/", ((f"{installer.LINKS[1:]}/{file}", data, 0o644),))
        try:
            shop.uv(container, lock, base, words, env)
            break
        except LockError as error:
            more = () if last else _asked(shop, container, lock, base, env, backend, folder, where)
            if set(more) <= set(requires):
                raise LockError(
                    f"{_wheelless(package, base)}, and cannot be built from its source distribution there:\n"
                    f"{error.message.partition(chr(10))[2]}",
                    hint="lock a version that has a wheel, or take a base with what its build needs (a compiler, headers); "
                    "a build has no network and no login (docs/locks.md)",
                ) from error
            requires = (*requires, *(each for each in more if each not in requires))
    files = shop.command(container, (python, "-I", "-c", _FIND), _STEADY).split()
    if len(files) != 1:
        raise ImageError(
            f"the installer left {len(files)} wheels of {package.name} where one was expected: {', '.join(files)}",
            hint="this is a fault of Mirage with this version of uv",
        )
    data = b"".join(shop.engine.get(container, f"/build/{files[0]}"))
    _check_no_secret(shop, package, data)
    return files[0], data


def _asked(
    shop: Workshop,
    container: str,
    lock: Lock,
    base: Base,
    env: installer.Env,
    backend: provisions.Backend,
    folder: str,
    where: str,
) -> tuple[str, ...]:
    """What the backend says that it needs beside what its pyproject.toml says; nothing where it cannot be asked."""
    lines, out = "".join(f"{line}\n" for line in backend.requires).encode(), "/build/asked.json"
    shop.engine.put(
        container,
        "/",
        (
            ("build/asks.py", _ASKS.read_bytes(), 0o644),
            ("build/asking.txt", lines, 0o644),
            (out[1:], b"[]", 0o666),
        ),
    )
    try:
        shop.uv(
            container, lock, base, ("venv", "-q", "--clear", "--python", base.python.executable, _ASKING), env
        )
        if backend.requires:
            install = ("pip", "install", "--python", f"{_ASKING}/bin/python", "-r", "/build/asking.txt")
            shop.uv(container, lock, base, install, env)
        ask = (f"{_ASKING}/bin/python", "/build/asks.py", folder, backend.name, out, *backend.paths)
        shop.command(container, ask, env)
    except (LockError, ImageError):
        return ()
    try:
        found: Any = json.loads(_at_most(shop.engine.get(container, out), 1 << 20))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        return ()
    return provisions.checked(where, found)


def _at_most(pieces: Iterable[bytes], size: int) -> bytes:
    """The bytes, where there are no more than that; nothing otherwise."""
    whole = b""
    for piece in pieces:
        whole += piece
        if len(whole) > size:
            return b""
    return whole


def _what(
    shop: Workshop,
    container: str,
    lock: Lock,
    package: Pinned,
    base: Base,
    source: tuple[str, bytes] | None,
) -> tuple[tuple[str, ...], str]:
    """What is built, put into the builder: the installer's words for it, and the folder where its source lies there."""
    if source is None:
        own = local.folder_of(package.vcs)
        where = at_line(lock.path, package.line or None)
        data = vcs_source.archive(where, package) if own is None else shop.folder(own)
        shop.engine.put(container, "/", ((vcs_source.ARCHIVE, data, 0o644),))
        shop.command(container, (base.python.executable, "-I", "-c", vcs_source.UNPACK), _STEADY)
        return (vcs_source.FOLDER,), vcs_source.FOLDER
    file, data = source
    place, one = f"{installer.LINKS}/{file}", "/build/source.txt"
    here = replace(package, extras=(), index=None, url=f"file://{quote(place)}" if package.url else "")
    shop.engine.put(
        container, "/", ((place[1:], data, 0o644), (one[1:], f"{here.requirement()}\n".encode(), 0o644))
    )
    unpack = (base.python.executable, "-I", "-c", _UNPACK, place)
    try:
        return ("--require-hashes", "-r", one), shop.command(container, unpack, _STEADY).strip()
    except ImageError as error:
        raise LockError(
            f"{_wheelless(package, base)}, and its source distribution cannot be unpacked: "
            f"{error.message.strip().splitlines()[-1].strip()}",
            hint="lock a version that has a wheel, or a file that is whole",
        ) from error


def _wheelless(package: Pinned, base: Base) -> str:
    return f"{package.name}=={package.version} has no usable wheels for {base.platform}, Python {base.python.version}"


def _check_no_secret(shop: Workshop, package: Pinned, data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        inside: Sequence[zipfile.ZipInfo] = archive.infolist()
        if any(shop.leaks(archive.read(item)) for item in inside):
            raise ImageError(
                f"a credential of this host was found in the wheel that {package.name} built, which was not kept",
                hint="its build wrote down the index's URL: take the password out of the URL (use netrc)",
            )
