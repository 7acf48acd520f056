"""Files of package indexes: where the installer says that each is, and fetching them by their hashes.

In a builder that has the logins of the indexes. No code of a package is run for any of it (docs/adr/0026).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from orchestrator.errors import LockError
from orchestrator.image import installer
from orchestrator.image.base import Base
from orchestrator.locks import pylock, selection
from orchestrator.locks.pinned import Lock, Pinned, normal_name
from orchestrator.locks.source import LockSource
from orchestrator.locks.target import Target

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.image.wheels import Workshop

FETCHED = "/build/fetched"
_FETCH = Path(__file__).parent / "fetch_in_builder.py"
_FILE = re.compile(r"[A-Za-z0-9_.+!-]+")


@dataclass(frozen=True)
class Order:
    """A file to fetch: where it is, its name, and the hash that it must have."""

    url: str
    file: str
    hash: str


def target(base: Base) -> Target:
    """What a base is, for the choice among the files of a package."""
    python = base.python
    return Target(base.platform.architecture, python.implementation, python.version, python.libc)


def listed(
    shop: Workshop,
    container: str,
    lock: Lock,
    base: Base,
    env: installer.Env,
    lines: bytes,
    name: str,
    *options: str,
    alone: Iterable[str] = (),
) -> LockSource:
    """Requirements as the index has them now, in the form of PEP 751; ``name`` is of letters and digits.

    Packages that are ``alone`` are asked for without what they require, so that nobody has to build one to know that.
    Raises LockError.
    """
    wanted, out = f"/build/{name}.txt", f"/build/pylock.{name}.toml"
    files = [(wanted[1:], lines, 0o644)]
    words: tuple[str, ...] = ("pip", "compile", "--python", base.python.executable, "--no-header")
    settings = installer.never_built(alone)
    if settings:
        files.append((f"build/{name}.uv.toml", settings, 0o644))
        words += ("--no-deps", "--config-file", f"/build/{name}.uv.toml")
    shop.engine.put(container, "/", files)
    words += (*options, "--format", "pylock.toml", "-o", out, wanted)
    shop.uv(container, lock, base, words, env)
    return LockSource(out, b"".join(shop.engine.get(container, out)))


def chosen(source: LockSource, base: Base) -> dict[str, Pinned]:
    """What would be installed of that on a base, each with its one file."""
    return {each.name: each for each in selection.select(pylock.read(source), target(base)).packages}


def places(source: LockSource) -> dict[tuple[str, str], str]:
    """Where the files are, by package and file name."""
    return dict(_places(source.toml()))


def _places(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    for package in table.get("packages", ()):
        one = [package[kind] for kind in ("archive", "sdist") if kind in package]
        for each in (*package.get("wheels", ()), *one):
            url = str(each.get("url", ""))
            name = str(each.get("name") or unquote(urlsplit(url).path.rpartition("/")[2]))
            yield (normal_name(str(package["name"])), name), url


def order(package: Pinned, urls: Mapping[tuple[str, str], str]) -> Order:
    """The order for a package's one file, by one of its hashes. Raises LockError where nobody says where it is."""
    if (
        not package.files
        or not package.files[0].hashes
        or not urls.get((package.name, package.files[0].name))
    ):
        raise LockError(f"the index does not say where the file of {package.name}=={package.version} is")
    file = package.files[0]
    return Order(urls[package.name, file.name], file.name, file.hashes[0])


def fetch(
    shop: Workshop, container: str, base: Base, env: installer.Env, orders: Iterable[Order]
) -> tuple[str, ...]:
    """Fetch files into FETCHED of a builder, each by its hash; gives their names there. Raises LockError, ImageError."""
    wanted = tuple(orders)
    for each in wanted:
        if not _FILE.fullmatch(each.file) or each.file.startswith("."):
            raise LockError(f"an index has a file with a name that is none: {each.file[:80]!r}")
    files: list[Json] = [{"url": each.url, "file": each.file, "hash": each.hash} for each in wanted]
    told = {"files": files, "logins": list(_logins(dict(env)))}
    shop.engine.put(
        container,
        "/",
        (
            ("build/fetch.py", _FETCH.read_bytes(), 0o644),
            # for whoever the commands of this builder run as (variation.py): no code of packages runs in it
            ("build/fetch.json", json.dumps(told).encode(), 0o644),
        ),
    )
    with shop.downloads(container):
        shop.command(container, (base.python.executable, "-I", "/build/fetch.py"), env)
    return tuple(each.file for each in wanted)


def _logins(env: Mapping[str, str]) -> Iterator[Json]:
    """Logins of indexes as (scheme, host, user, password): from their URLs, and by their names."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
        for word in env.get(name, "").split():
            named, _, url = word.partition("=") if "=" in word.partition("://")[0] else ("", "", word)
            parts = urlsplit(url)
            by_name = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", named.upper())
            user = unquote(parts.username or "") or env.get(f"{by_name}_USERNAME", "")
            password = unquote(parts.password or "") or env.get(f"{by_name}_PASSWORD", "")
            if user or password:
                yield [parts.scheme, parts.netloc.rpartition("@")[2], user, password]
