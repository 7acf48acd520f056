"""What this machine keeps and no kept run needs: images and volumes in the engine, layers in the machine's cache.

All of it comes back by itself when it is needed (from the store, or built again), so a wrong guess costs time only.
The machine's cache serves other projects too: what they used lately is told by the time of last access.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.digest import Digest, hex_of
from orchestrator.ports import Engine, Store
from orchestrator.store.folder import FolderStore
from orchestrator.upkeep.reach import hexes, payload

VOLUMES = "mirage-"
KINDS = ("run", "env", "base")
_REMEMBERED = 90 * 24 * 3600.0


@dataclass(frozen=True)
class Image:
    """A name in the engine that can go; ``size`` counts layers that others share."""

    name: str
    size: int


def needed(store: Store) -> set[str]:
    """Every digest (hex) that a run's record names: of images and of their layers too."""
    found: set[str] = set()
    records = [key for key in store.keys("runs/") if key.endswith("/record.json")]
    for key, data in store.reads(records):
        found.update(hexes(payload(data or b"", key)))
    return found


def images(
    engine: Engine, wanted: set[str], older_than: float, unused_for: Callable[[str], float]
) -> Iterator[Image]:
    """The engine's images of ours whose uppermost layer no record names, and that served nobody for that long.

    An environment or a base is needed as long as a run image above it is. Raises EngineError.
    """
    for kind in KINDS:
        for name, size in engine.tags(f"mirage/{kind}:"):
            found = engine.image(name) if unused_for(name) >= older_than else None
            if found is not None and not (
                found.diff_ids and found.diff_ids[-1].removeprefix("sha256:") in wanted
            ):
                yield Image(name, size)


def volumes(
    engine: Engine, older_than: float, unused_for: Callable[[str], float]
) -> Iterator[tuple[str, int]]:
    """The installer's caches of ours that served no build for that long, and their bytes. Raises EngineError."""
    for name, size in engine.idle_volumes(VOLUMES):
        if unused_for(f"volume-{name}") >= older_than:
            yield name, size


def layers(cache: FolderStore, wanted: set[str], older_than: float) -> Iterator[tuple[Digest, int]]:
    """The blobs in the machine's cache that no record names and nobody read for that many seconds."""
    for held in cache.blobs():
        if hex_of(held.digest) not in wanted and held.age >= older_than:
            try:
                read = time.time() - os.stat(cache.blob_path(held.digest)).st_atime
            except FileNotFoundError:
                continue
            if read >= older_than:
                yield held.digest, held.size


def forget_added(cache: Path) -> int:
    """Remove what the cache remembers of folders, code layers and images' layers that nobody asked for in 90 days;
    gives how many notes there were.
    """
    count = 0
    for folder in ("stat", "notes/code", "notes/chains"):
        with suppress(FileNotFoundError), os.scandir(cache / folder) as items:
            for item in items:
                with suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    if time.time() - max(status.st_atime, status.st_mtime) > _REMEMBERED:
                        os.unlink(item.path)
                        count += 1
    return count
