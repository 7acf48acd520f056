"""The bound of what a machine keeps of buckets: whoever was used least lately goes, whatever project brought it.

Only copies go: what is still owed to a bucket stays, and so does what is mounted or laid out (it has a second name), or
was used within the hour. Who looked at a copy a moment before it went fetches it again.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.digest import Digest
from orchestrator.errors import ConfigError
from orchestrator.setting_values import Unfit, size
from orchestrator.store import owed

if TYPE_CHECKING:
    from orchestrator.store.folder import FolderStore

VARIABLE = "MIRAGE_CACHE_LIMIT"
LOOK_AFTER = 64 << 20  # bytes that come between two looks of one process
_DAILY = 24 * 3600.0
_IN_USE = 3600.0  # seconds since the last use for which a copy is taken to be in use
_DOWN_TO = 0.9  # of the limit, so that not every fetch has to make room
_BATCH = 200  # removals between two looks at what is owed
_STORE = re.compile(r"[0-9a-f]{24}")
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class KeptBlob:
    """A blob that a machine has of a bucket's; bytes on the disk, and when it was used last, in seconds since 1970."""

    store: Path
    path: Path
    size: int
    used: float
    mounted: bool

    @property
    def digest(self) -> Digest:
        """Its name."""
        return Digest(f"sha256:{self.path.name}")


def limit(stores: Path) -> int:
    """How many bytes a machine keeps of all buckets together: what the variable says, else half of the disk.

    Raises ConfigError where it says no size.
    """
    said = os.environ.get(VARIABLE, "")
    if said:
        try:
            found: int = size(0)(int(said) if said.isdigit() else said)
        except Unfit as error:
            raise ConfigError(f"{VARIABLE}={said} is not {error}", hint=f"{VARIABLE}=200g") from None
        return found
    disk = os.statvfs(stores)
    return disk.f_blocks * disk.f_frsize // 2


def copies(stores: Path) -> Iterator[KeptBlob]:
    """All copies, of every bucket and prefix, in no order."""
    for store in _folders(stores):
        for folder in sorted((store / "blobs" / "sha256").glob("??")):
            with suppress(FileNotFoundError), os.scandir(folder) as items:
                for item in items:
                    with suppress(FileNotFoundError):
                        if _BLOB.fullmatch(item.name):
                            found = item.stat(follow_symlinks=False)
                            used = max(found.st_atime, found.st_ctime)
                            yield KeptBlob(
                                store, Path(item.path), found.st_blocks * 512, used, found.st_nlink > 1
                            )


def use(path: Path) -> None:
    """A copy is used now; told to the disk at most once in a quarter of an hour. Its other time stamp must not change."""
    with suppress(OSError):
        found = os.stat(path)
        now = time.time()
        if now - max(found.st_atime, found.st_ctime) > _IN_USE / 4:
            os.utime(path, ns=(int(now * 10**9), found.st_mtime_ns))


def removable(found: list[KeptBlob], unused_for: float) -> list[KeptBlob]:
    """Those that nobody used for so long, and for an hour at least; least lately used ones first."""
    until = time.time() - max(unused_for, _IN_USE)
    return sorted(
        (each for each in found if not each.mounted and each.used < until), key=lambda each: each.used
    )


def remove(going: list[KeptBlob], enough: Callable[[int], bool] = lambda freed: False) -> tuple[int, int]:
    """Remove copies, in this order, until ``enough`` of their bytes are freed; gives how many, and their bytes."""
    count = freed = 0
    for start in range(0, len(going), _BATCH):
        batch = going[start : start + _BATCH]
        kept = {store: owed.of_all(store / "bucket" / "owed") for store in {each.store for each in batch}}
        for each in batch:
            if enough(freed):
                return count, freed
            if each.digest not in kept[each.store]:
                with suppress(OSError):
                    each.path.unlink()
                    count, freed = count + 1, freed + each.size
    return count, freed


def keep_below(stores: Path, came: int) -> tuple[int, int] | None:
    """Make room where the limit is passed, after so many bytes came; None where it is not looked at this time.

    Raises ConfigError where the limit is no size.
    """
    stamp = stores / "bounded"
    with suppress(FileNotFoundError):
        if came < LOOK_AFTER and time.time() - stamp.stat().st_mtime < _DAILY:
            return None
    with stamp.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # another process is at it
        os.utime(stamp)
        found = list(copies(stores))
        total, most = sum(each.size for each in found), limit(stores)
        if total <= most:
            return 0, 0
        return remove(removable(found, 0.0), lambda freed: total - freed <= most * _DOWN_TO)


class Bound:
    """One process's part in it: what it uses, and how much came with it. Safe for threads."""

    def __init__(self, stores: Path) -> None:
        self._stores = stores
        self._came = 0

    def missing(self, local: FolderStore, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are not here; the others are used now."""
        absent = []
        for digest in digests:
            if local.has(digest):
                use(local.blob_path(digest))
            else:
                absent.append(digest)
        return absent

    @contextmanager
    def counting(self, count: Callable[[int], object]) -> Iterator[Callable[[int], object]]:
        """Gives what hears of the bytes that come; when all are here, or no more come, room is made."""
        total = 0

        def counted(size: int) -> None:
            nonlocal total
            total += size
            count(size)

        try:
            yield counted
        finally:
            if total:
                self.came(total)

    def came(self, size: int) -> None:
        """So many bytes are here now. Raises ConfigError where the limit is no size."""
        self._came += size
        if keep_below(self._stores, self._came) is not None:
            self._came = 0


def _folders(stores: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(path for path in stores.iterdir() if _STORE.fullmatch(path.name))
    return []
