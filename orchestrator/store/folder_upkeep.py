"""Upkeep of a store in a folder: what is there and how old, by the file server's clock, and taking it away."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.digest import Digest, hex_of, of_file, parse_digest
from orchestrator.errors import StoreError
from orchestrator.store import mounts
from orchestrator.store.disk import folder_below, sync, told, write_all
from orchestrator.store.staging import BLOB_MTIME, STAGED, Staging, seal, staged_name

if TYPE_CHECKING:
    from orchestrator.ports_upkeep import Held

_BATCH = 500  # removals between two looks whether they may go on


def now(place: Staging) -> float:
    """What time it is by the clock that stamps files here: on a NAS it is not this machine's."""
    path = staged_name(place)
    with told(f"write to the store {place.location}"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            return os.fstat(descriptor).st_ctime
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)


def blobs(place: Staging, top: str) -> Iterator[Held]:
    """Every blob below `blobs/sha256`; a blob's mtime is fixed, so its age is that of its last change of name or mode."""
    from orchestrator.ports_upkeep import Held

    moment = now(place)
    with told(f"list the blobs of {place.location}"):
        for folder in sorted(os.listdir(top)):
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{top}/{folder}") as items:
                for item in items:
                    with suppress(FileNotFoundError, StoreError):
                        status = item.stat(follow_symlinks=False)
                        digest = parse_digest(f"sha256:{item.name}")
                        if stat.S_ISREG(status.st_mode) and item.name[:2] == folder:
                            yield Held(digest, status.st_size, max(0.0, moment - status.st_ctime))


def hashed(held: list[Held], opened: Callable[[Digest], BinaryIO]) -> Iterator[tuple[Held, bool]]:
    """Each of them, with whether its bytes are those of its digest; two at once."""

    from concurrent.futures import ThreadPoolExecutor

    def whole(each: Held) -> bool:
        try:
            with opened(each.digest) as source:
                return of_file(source) == each.digest
        except (OSError, StoreError):
            return False

    with ThreadPoolExecutor(2) as pool:
        yield from zip(held, pool.map(whole, held), strict=True)


def remove(place: Staging, digests: Iterable[Digest], before: Callable[[], None]) -> int:
    """Unlink blobs; what is mounted into a run by a hard link keeps its bytes there."""
    count = 0
    with told(f"remove a blob of {place.location}"):
        for number, digest in enumerate(digests):
            if number % _BATCH == 0:
                before()
            name = hex_of(parse_digest(digest))
            with (
                suppress(FileNotFoundError),
                folder_below(place.location, ("blobs", "sha256", name[:2])) as folder,
            ):
                os.unlink(name, dir_fd=folder)
                count += 1
    return count


def ages(place: Staging, found: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, float]]:
    """Keys with their ages; one that goes meanwhile is passed over."""
    moment = now(place)
    for key, path in found:
        with suppress(FileNotFoundError), told_unless_missing(f"look at {key} in {place.location}"):
            yield key, max(0.0, moment - os.lstat(path).st_mtime)


class told_unless_missing:
    """As ``told``, but a file that is not there is the caller's business."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise StoreError(f"cannot {self._what}: {error.strerror or error}") from error


def replace(place: Staging, target: str, data: bytes, durable: bool) -> None:
    """Write a whole file in place of another; its folder is there."""
    staged = staged_name(place)
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        mounts.rename(staged, target, lambda: mounts.read(target) == data)
        if durable:
            sync(os.path.dirname(target))
    except BaseException:
        with suppress(OSError):
            os.unlink(staged)
        raise


def check_staging(path: str) -> None:
    """Raise StoreError where `staging/` is a link: what is written there, and swept, lies beside the blobs."""
    if os.path.islink(path):
        raise StoreError(
            f"{path} is a link: a store's files are written beside its blobs",
            hint="somebody else may have put it there: look where it leads, and remove it",
        )


def sweep(place: Staging, older_than: float, pretend: bool) -> tuple[int, int]:
    """Remove old files under `staging/`; not by mtime, which a finished blob has fixed.

    Only what has a name that writers give: whoever writes to the store may have put a link in the place of the folder,
    which is not followed, or things of others into it.
    """
    count = size = 0
    with (
        suppress(OSError),
        folder_below(place.location, (os.path.basename(place.staging()),)) as folder,
        os.scandir(folder) as found,
    ):
        items = list(found)
        # each opening of a store comes by here: nothing is written where nothing was left
        moment = now(place) if items else 0.0
        for item in items:
            with suppress(OSError):
                status = item.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or not STAGED.fullmatch(item.name):
                    continue
                if moment - status.st_ctime >= older_than:
                    if not pretend:
                        os.unlink(item.name, dir_fd=folder)
                    count, size = count + 1, size + status.st_blocks * 512
    return count, size


def loose(top: str) -> Iterator[Digest]:
    """Blobs that can be written to, or whose time stamp is not the one that ours have."""
    for folder in sorted(os.listdir(top)):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{top}/{folder}") as items:
            for item in items:
                with suppress(FileNotFoundError, StoreError):
                    status = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and (
                        stat.S_IMODE(status.st_mode) != 0o444 or status.st_mtime_ns != BLOB_MTIME * 10**9
                    ):
                        yield parse_digest(f"sha256:{item.name}")


def tighten(path: str) -> bool:
    """Give a blob that was seen to be whole its mode and time stamp again."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            seal(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True
