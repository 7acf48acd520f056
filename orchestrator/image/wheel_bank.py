"""The wheels of an environment in the store (`bank: [wheels]`), so that it is installed again without any index.

Owns what is kept for that and how it is fetched: in a builder, from where the installer says each file is, by its hash.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import ImageError, LockError, MirageError
from orchestrator.image import index_files, installer
from orchestrator.image.base import Base
from orchestrator.image.library import Library
from orchestrator.image.wheels import Wheel, Workshop
from orchestrator.locks.pinned import Lock, Pinned

_FILE = re.compile(r"[A-Za-z0-9_.+!-]+\.whl")  # binary distribution format: what may stand in a wheel's name


@dataclass(frozen=True)
class Banked:
    """A wheel of an environment: whose it is, its bytes, the hashes that its lock was installed with, and, where it was
    built from a source distribution, what from."""

    package: str
    file: str
    digest: Digest
    hashes: tuple[str, ...]
    source: tuple[str, ...] = ()

    @property
    def wheel(self) -> Wheel:
        """As the builder takes it."""
        return Wheel(self.package, self.file, self.digest, self.source)


def find(library: Library, key: Digest, lock: Lock | None = None) -> tuple[Banked, ...] | None:
    """The wheels of an environment by its key, where all of them are kept; without ``lock`` as the list tells them, for
    whoever installs nothing.

    A wheel counts where its bytes have a hash of the lock, whoever kept it. Where the lock has none, and for what was
    built from a source distribution, the list that names it must be believed (belief.py).
    """
    known = library.look("wheels", key)
    if known is not None:
        return _listed(library, known.entry, lock, sure=True)
    for told in library.refused("wheels", key):
        with suppress(MirageError, ValueError, KeyError, TypeError):
            found = _listed(library, told.entry, lock, sure=False)
            if found is not None:
                return found
    return None


def _listed(
    library: Library, entry: Mapping[str, Json], lock: Lock | None, *, sure: bool
) -> tuple[Banked, ...] | None:
    digest = parse_digest(entry["digest"])
    if not library.has(digest):
        return None
    listed: Any = canonical.decode(b"".join(library.read(digest)))
    found = tuple(
        Banked(
            str(each["package"]),
            str(each["file"]),
            parse_digest(each["digest"]),
            tuple(each["hashes"]),
            tuple(each["source"]),
        )
        for each in listed
    )
    if lock is not None:
        by_name = {each.package: each for each in found}
        wanted = {package.name: package for package in lock.packages}
        if set(by_name) != set(wanted):
            return None
        if not all(_fits(by_name[name], package, sure=sure) for name, package in wanted.items()):
            return None
    return found if all(library.has(each.digest) for each in found) else None


def _fits(kept: Banked, package: Pinned, *, sure: bool) -> bool:
    """Whether a kept wheel is the package that the lock means, by hash; by the list's word where it is ``sure``."""
    if not _FILE.fullmatch(kept.file):
        return False
    if kept.source:
        return sure
    hashes = [each for each in package.hashes if each.startswith("sha256:")]
    return kept.digest in hashes if hashes else sure


def as_kept(lock: Lock, banked: tuple[Banked, ...]) -> Lock:
    """The lock with the hashes of its kept wheels: the lock's own where it has them; it says nothing of what was built."""
    kept = {each.package: each for each in banked}
    return replace(
        lock,
        packages=tuple(
            replace(
                each,
                hashes=each.hashes if each.hashes and not kept[each.name].source else kept[each.name].hashes,
                url="",
                index=None,
            )
            for each in lock.packages
        ),
    )


def bank(library: Library, key: Digest, found: tuple[Banked, ...]) -> None:
    """Keep in the project's store what ``find`` found on this machine: the wheels, the list of them, and the key."""
    for each in found:
        library.bank(each.digest, "wheels")
    known = library.look("wheels", key)
    if known is not None:  # else the store has it from somebody else, and it is there already
        library.bank(parse_digest(known.entry["digest"]), "wheels")
        library.bank_key("wheels", key)


def keep(
    shop: Workshop,
    container: str,
    lock: Lock,
    made: tuple[Wheel, ...],
    base: Base,
    key: Digest,
    manifest: bytes,
) -> None:
    """Fetch the wheels of a lock as it was installed, and keep them in the store. Raises LockError, ImageError."""
    shop.reporter.stage("environment", "keeping the wheels")
    built = {wheel.package: wheel for wheel in made}
    found = [
        Banked(
            each.name, built[each.name].file, built[each.name].digest, each.hashes, built[each.name].source
        )
        for each in lock.packages
        if each.name in built
    ]
    for number, batch in enumerate(installer.batches(lock, shop.env(), frozenset(built))):
        rest = replace(batch, packages=tuple(each for each in batch.packages if each.name not in built))
        if rest.packages:
            found += _fetched(shop, container, lock, rest, base, number)
    for each in found:
        shop.library.bank(each.digest, "wheels")
    listed: list[Json] = [
        {
            "package": each.package,
            "file": each.file,
            "digest": each.digest,
            "hashes": list(each.hashes),
            "source": list(each.source),
        }
        for each in sorted(found, key=lambda each: each.package)
    ]
    digest = shop.library.put(canonical.encode(listed), "wheels")
    shop.library.keep("wheels", key, manifest, {"digest": digest, "created": str(time.time_ns())})


def _fetched(
    shop: Workshop, container: str, lock: Lock, batch: installer.Batch, base: Base, number: int
) -> Iterator[Banked]:
    names = [each.name for each in batch.packages]
    told = index_files.listed(
        shop, container, lock, base, batch.env, batch.content(), f"bank{number}", alone=names
    )
    offered, urls = index_files.chosen(told, base), index_files.places(told)
    orders = []
    for package in batch.packages:
        found = offered.get(package.name)
        if found is None or not found.files:
            raise LockError(f"the index does not say where the wheel of {package.name}=={package.version} is")
        file = found.files[0]
        allowed = tuple(value for value in file.hashes if value in package.hashes or not package.hashes)
        if not allowed:
            raise LockError(f"{lock.path} names other files of {package.name} than the index has now")
        orders.append(index_files.order(replace(found, files=(replace(file, hashes=allowed),)), urls))
    index_files.fetch(shop, container, base, batch.env, orders)
    for package, order in zip(batch.packages, orders, strict=True):
        with shop.library.writer() as writer:
            for piece in shop.engine.get(container, f"{index_files.FETCHED}/{order.file}"):
                writer.write(piece)
            digest, _ = writer.commit()
        if order.hash.startswith("sha256:") and order.hash != digest:
            raise ImageError(f"{order.file} came out of the builder as {digest}")
        yield Banked(package.name, order.file, digest, package.hashes)
