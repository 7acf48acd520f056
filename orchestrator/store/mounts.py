"""Looking past what this machine remembers of a network's file system: names and stamps that another machine changed.

A client of NFS asks the server when a file or folder is opened (close-to-open consistency), and not for a stat: that may
tell for a minute of what is gone, or not tell of what is new. Even at an opening it goes by the folder's time of change,
and two changes within one tick of the server's clock look like one: with NFS 3 such a list stays wrong until the next
change (7 of 300 times where a second file came a millisecond after the first).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress

from orchestrator.store.disk import folder_below, open_regular, read_regular

LATE = 10.0  # seconds within which a network's file system shows what another machine made
_POLL = 0.02


def is_near(folder: str) -> bool:
    """Whether a folder lies on a disk of this machine: all else has 0 as its major number, also tmpfs and Btrfs."""
    return os.major(os.stat(folder).st_dev) != 0


def status(path: str) -> os.stat_result:
    """As lstat(2), but as the server has it now. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ESTALE:  # removed, or replaced, between two questions
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        if error.errno in (
            errno.ELOOP,
            errno.ENXIO,
            errno.EACCES,
        ):  # no file of ours, or one that we may not read
            return os.lstat(path)
        raise
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def forget(folder: str) -> None:
    """Let the next list of a folder come from the server: its pages are dropped, which posix_fadvise(2) does at once."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def reached(root: str, folder: str) -> bool:
    """Whether there is a folder below ``root``; each above it is opened, and what it did not have before is forgotten."""
    path = root
    try:
        forget(path)
        for part in os.path.relpath(folder, root).split("/"):
            path = f"{path}/{part}"
            forget(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def stir(root: str, folder: str) -> None:
    """Change a folder below ``root``, so that all that this machine remembers of it is asked for anew; in vain where that
    is refused, or where a link leads there.
    """
    name = f".seen-{os.getpid()}-{os.urandom(8).hex()}"  # no key, no blob
    with suppress(OSError), folder_below(root, os.path.relpath(folder, root).split("/")) as there:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=there))
        os.unlink(name, dir_fd=there)


def read(path: str) -> bytes:
    """The bytes of an object's file; one that is replaced while it is read is read again. Raises OSError."""
    end = time.monotonic() + LATE
    while True:
        try:
            return read_regular(path)
        except OSError as error:
            if error.errno != errno.ESTALE or time.monotonic() > end:
                raise
        time.sleep(_POLL)


def read_late(root: str, path: str) -> bytes | None:
    """An object's bytes that are not there by its name: it may be listed, and shown a moment later. Raises OSError."""
    folder, name = os.path.split(path)
    end = time.monotonic() + LATE
    while reached(root, folder):
        try:
            if name not in os.listdir(folder):
                return None
            return read(path)
        except (FileNotFoundError, NotADirectoryError):
            if time.monotonic() > end:
                return None
        stir(root, folder)
        time.sleep(_POLL)
    return None


def shown(root: str, path: str) -> None:
    """Wait until what another one made is there to read: some mounts refuse a name before they show it. Raises OSError."""
    end = time.monotonic() + LATE
    while True:
        try:
            os.close(open_regular(path))
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE) or time.monotonic() > end:
                raise
        stir(root, os.path.dirname(path))
        time.sleep(_POLL)


def is_named(descriptor: int, path: str) -> bool:
    """Whether this open file has this name as its second one: asked by opening it, as a stat may tell of a moment ago."""
    try:
        found = status(path)
    except FileNotFoundError:
        return False
    return found.st_nlink == 2 and os.path.samestat(os.fstat(descriptor), found)


def rename(source: str, target: str, came: Callable[[], bool]) -> None:
    """rename(2), of which a server that began anew may have lost its own answer: then there is nothing to rename.

    ``came`` tells whether the target is what the source was. Raises OSError.
    """
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if not came():
            raise
