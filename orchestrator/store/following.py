"""A file that some threads write and one hashes behind them: the longer of the two is what it costs, and next to no memory."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from io import FileIO

from orchestrator.digest import CHUNK, Digest, of_hasher, sha256
from orchestrator.errors import StoreError

# From this size on a second thread is worth its start.
LARGE = 8 << 20
# How many bytes are hashed between two nudges to the kernel to begin putting them on disk.
NUDGE = 16 << 20
_SHORTER = "a file became shorter while it was read"


class Unreadable(Exception):
    """What is to be copied cannot be read; the text says why, and the caller knows what it is about."""


class Follower:
    """Hashes an open file from its begin to its end, as far as its extents have come.

    An extent is ``extent`` bytes long, the last one shorter, and written from its begin on by one thread. The file must
    be open for reading: what is hashed are the bytes that it has.
    """

    def __init__(self, descriptor: int, size: int, extent: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._extent = extent
        self._ends: dict[int, int] = {}  # extent: to where it has come
        self._failed: BaseException | None = None
        self._changed = threading.Condition()

    def came(self, end: int) -> None:
        """All of an extent is there up to this position. Raises StoreError where something else has ended the work."""
        with self._changed:
            self.check()
            if end:
                self._ends[(end - 1) // self._extent] = end
                self._changed.notify()

    def check(self) -> None:
        """Raise StoreError where something else has ended the work: not that error, which nobody shall try again here."""
        if self._failed is not None:
            raise StoreError("another part of the file failed") from self._failed

    def fail(self, error: BaseException) -> None:
        """Let nobody wait or write on; the first error is the one that is raised."""
        with self._changed:
            self._failed = self._failed or error
            self._changed.notify()

    def digest(self, count: Callable[[int], object] = lambda size: None) -> Digest:
        """The whole file's digest, once all of it has come; ``count`` hears of what was hashed. Raises what failed."""
        hasher, room, position, nudged = sha256(), memoryview(bytearray(CHUNK)), 0, 0
        try:
            while position < self._size:
                there = self._wait(position)
                while position < there:
                    got = os.preadv(self._descriptor, [room[: there - position]], position)
                    if not got:
                        raise OSError(f"the file ended at {position} of {self._size} bytes")
                    hasher.update(room[:got])
                    position += got
                    count(got)
                    if position - nudged >= NUDGE:
                        # On dirty pages this begins the write-back, so that fsync finds little left to do.
                        os.posix_fadvise(self._descriptor, nudged, position - nudged, os.POSIX_FADV_DONTNEED)
                        nudged = position
        except BaseException as error:
            self.fail(error)
            raise
        return of_hasher(hasher)

    def _wait(self, position: int) -> int:
        """To where the file is there from ``position`` on, at least one byte further."""
        number = position // self._extent
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._ends.get(number, 0) > position)
            if self._failed is not None:
                raise self._failed
            return self._ends[number]


def copied(source: int, target: int, size: int) -> Digest:
    """Copy ``size`` bytes of an open file, from its position on, to another, empty one; gives the digest of what arrived.

    In the kernel, where it can: a file system that shares extents then copies nothing. What is no data in the source (a
    hole, or room that was only reserved) is a hole in the target. Where this ends early nothing is written any more.

    Raises Unreadable where the source cannot be read, or has fewer bytes, and OSError where the target cannot be written.
    """
    begin = os.lseek(source, 0, os.SEEK_CUR)
    os.ftruncate(target, size)
    follower = Follower(target, size, max(size, 1))
    # Descriptors of its own: the caller may close his before the thread sees that this has ended.
    own = FileIO(os.dup(source)), FileIO(os.dup(target), "r+")
    thread = threading.Thread(target=_copy, args=(*own, begin, size, follower))
    del own  # they are closed by the thread, or with it where it never starts
    try:
        thread.start()
        return follower.digest()
    except BaseException as error:
        follower.fail(error)
        raise
    finally:
        with suppress(RuntimeError):  # it never started
            thread.join()


def _copy(source: FileIO, target: FileIO, begin: int, size: int, follower: Follower) -> None:
    position, room = 0, memoryview(b"")
    with source, target:
        try:
            while position < size:
                start, end = _data(source.fileno(), begin + position, begin + size)
                position, end = start - begin, end - begin
                while position < end:
                    follower.came(position)
                    got = 0
                    if not room:
                        wanted = min(NUDGE, end - position)
                        got = _in_kernel(source.fileno(), target.fileno(), wanted, begin + position, position)
                    if not got:
                        room = room or memoryview(bytearray(CHUNK))
                        piece = _read(source.fileno(), room[: end - position], begin + position)
                        follower.came(position)
                        write_at(target.fileno(), piece, position)
                        got = len(piece)
                    position += got
                follower.came(position)
        except BaseException as error:
            follower.fail(error)


def _data(source: int, at: int, end: int) -> tuple[int, int]:
    """The next stretch of a file that has data, from ``at`` on and before ``end``; an empty one at ``end`` for none."""
    try:
        start = min(os.lseek(source, at, os.SEEK_DATA), end)
        return start, min(os.lseek(source, start, os.SEEK_HOLE), end)
    except OSError as error:
        if error.errno != errno.ENXIO:
            return at, end  # it cannot say: all of it is data
        if os.fstat(source).st_size < end:
            raise Unreadable(_SHORTER) from error
        return end, end


def _in_kernel(source: int, target: int, size: int, at: int, position: int) -> int:
    """How many bytes the kernel copied (copy_file_range(2)).

    0 where it did not: between some file systems it cannot, and of all else reading and writing tell better.
    """
    try:
        return os.copy_file_range(source, target, size, at, position)
    except OSError:
        return 0


def _read(source: int, room: memoryview, at: int) -> memoryview:
    try:
        got = os.preadv(source, [room], at)
    except OSError as error:
        raise Unreadable(f"a file cannot be read: {error.strerror}") from error
    if not got:
        raise Unreadable(_SHORTER)
    return room[:got]


def write_at(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Write every byte at a place of an open file. Raises OSError."""
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:] if written else data, position + written)
