"""`environment: {unpinned: resolve}`: lines that pin nothing are resolved once, and what came out is a lock like any other.

It is kept beside its key, here and in the store, and used again as long as it is kept: resolving it anew is a change,
which the requirements must say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError
from orchestrator.image import uv_version
from orchestrator.image.base import Base
from orchestrator.image.handover import Handover
from orchestrator.image.library import Library
from orchestrator.locks.lock import parse
from orchestrator.locks.pinned import Lock
from orchestrator.ports import Engine, Reporter
from orchestrator.single_flight import single_flight


def key_manifest(lock: Lock, base: Base) -> bytes:
    """What a resolution depends on, as far as we decide it: the index of the day is not in it."""
    more: dict[str, Json] = {} if lock.index is None else {"index": lock.index.url}
    return canonical.encode(
        {
            "schema": "mirage-resolved-key/1",
            "requirements": list(wanted(lock)),
            "constraints": list(lock.constraints),
            "platform": str(base.platform),
            "python": f"{base.python.implementation} {base.python.version}",
            "libc": base.python.libc,
            **more,
        }
    )


def wanted(lock: Lock) -> tuple[str, ...]:
    """The lines to resolve, those that pin something included."""
    pinned = (replace(each, hashes=()).requirement() for each in lock.packages)
    return tuple(sorted({*pinned, *lock.loose}))


def known(lock: Lock, base: Base, library: Library) -> Lock | None:
    """The lock as it was resolved before; itself where it pins everything; None where it was not resolved yet."""
    if not lock.loose:
        return lock
    kept = library.find("resolved", of_bytes(key_manifest(lock, base)))
    if kept is None or not library.has(parse_digest(kept["digest"])):
        return None
    return _read(lock, b"".join(library.read(parse_digest(kept["digest"]))))


def provide(
    lock: Lock,
    base: Base,
    *,
    engine: Engine,
    library: Library,
    handover: Callable[[], Handover],
    network: str,
    reporter: Reporter,
) -> Lock:
    """The lock with everything pinned and hashed: as it was resolved before, or now, once.

    Raises LockError where there is no answer.
    """
    found = known(lock, base, library)
    if found is not None:
        _bank(lock, base, library)
        return found
    manifest = key_manifest(lock, base)
    key = of_bytes(manifest)
    with single_flight(library.lock_path(f"env-{hex_of(key)}"), "this resolution", reporter) as told:
        found = known(lock, base, library)
        if found is not None:
            return found
        from orchestrator.image.builder import Builder

        told.stage("lock", f"resolving {lock.path} (with uv {uv_version.installed()})")
        with Builder(engine, library, reporter, handover(), network) as builder:
            text = builder.resolve(lock, wanted(lock), base, key)
            leaks = builder.leaks(text)
        if leaks:
            raise ImageError("a credential of this host was found in the resolved lock, which was not kept")
        digest = library.put(text)
        library.keep("resolved", key, manifest, {"digest": digest, "created": str(time.time_ns())})
    made = _read(lock, text)
    reporter.warn(
        f"{lock.path} pins {len(lock.packages)} of {len(made.packages)} packages; the others were resolved now, and "
        f"stay so while the store keeps it. To have it in the commit: the lock is {digest}"
    )
    return made


def _read(lock: Lock, text: bytes) -> Lock:
    """The resolution under the name and digest of the file that it was made from."""
    made = parse("requirements.txt", text)
    return replace(lock, packages=made.packages, loose=(), constraints=())


def _bank(lock: Lock, base: Base, library: Library) -> None:
    if lock.loose:
        key = of_bytes(key_manifest(lock, base))
        kept = library.find("resolved", key)
        if kept is not None:
            library.bank(Digest(str(kept["digest"])))
            library.bank_key("resolved", key)
