"""A file that some threads write and one hashes behind them: the longer of the two is what it costs, and next to no memory."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from itertools import islice

from orchestrator.digest import CHUNK, Digest, of_bytes, of_hasher, sha256
from orchestrator.errors import StoreError

# From this size on a second thread is worth its start.
LARGE = 8 << 20
# How many bytes are hashed between two nudges to the kernel to begin putting them on disk.
NUDGE = 16 << 20
# Bytes of one write. For a longer one Linux takes memory in larger pieces (large folios), and a virtual machine that gives
# free ones back to its host waits for each: 2 GiB then took 6 s of CPU more.
_WRITE = 128 << 10
_STRETCHES = 10_000  # between holes; what is behind them is taken as data
_ZEROS = bytes(CHUNK)
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
    if size < LARGE:
        return _copied_at_once(source, target, begin, size)
    os.ftruncate(target, size)
    follower = Follower(target, size, max(size, 1))
    # Descriptors of its own: the caller may close his before the thread sees that this has ended.
    own = FileIO(os.dup(source)), FileIO(os.dup(target), "r+")
    thread = threading.Thread(target=_Copy(*own, begin, size, follower).run)
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


def _copied_at_once(source: int, target: int, begin: int, size: int) -> Digest:
    room, position = memoryview(bytearray(size)), 0
    while position < size:
        position += len(_read(source, room[position:], begin + position))
    write_at(target, room, 0)
    return of_bytes(room)


class _Copy:
    """The thread's part: what has data is copied by the kernel where that can, and nothing once the follower has failed.

    The source's position says how far it is, for whoever looks.
    """

    def __init__(self, source: FileIO, target: FileIO, begin: int, size: int, follower: Follower) -> None:
        self._source = source
        self._target = target
        self._begin = begin
        self._size = size
        self._follower = follower
        self._kernel = True
        self._room = memoryview(b"")

    def run(self) -> None:
        """Copy all of it, and close both."""
        with self._source, self._target:
            try:
                position = 0
                # beforehand: what is read ahead in a hole counts as data afterwards
                for start, end in list(islice(self._stretches(), _STRETCHES)):
                    self._hole(position, start)
                    self._stretch(start, end)
                    position = end
                self._stretch(position, self._size)
            except BaseException as error:
                self._follower.fail(error)

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """From where to where there are data, in order; where holes cannot be told, to the end."""
        source, at, end = self._source.fileno(), self._begin, self._begin + self._size
        try:
            while at < end:
                start = min(os.lseek(source, at, os.SEEK_DATA), end)
                at = min(os.lseek(source, start, os.SEEK_HOLE), end)
                yield start - self._begin, at - self._begin
        except OSError as error:
            if error.errno == errno.ENXIO and os.fstat(source).st_size >= end:
                yield self._size, self._size  # a hole behind the last
        finally:
            os.lseek(source, self._begin, os.SEEK_SET)

    def _hole(self, position: int, end: int) -> None:
        """Leave a hole where zeros are read: that there are no data was said wrongly before (OpenZFS, issue 15526)."""
        while position < end:
            piece = self._read(position, end)
            if bytes(piece) != _ZEROS[: len(piece)]:
                write_at(self._target.fileno(), piece, position)
            position = self._came(position + len(piece))

    def _stretch(self, position: int, end: int) -> None:
        while position < end:
            self._follower.check()
            got = self._copied(position, min(NUDGE, end - position)) if self._kernel else 0
            if not got:
                self._kernel = False
                piece = self._read(position, end)
                self._follower.check()
                write_at(self._target.fileno(), piece, position)
                got = len(piece)
            position = self._came(position + got)

    def _came(self, position: int) -> int:
        os.lseek(self._source.fileno(), self._begin + position, os.SEEK_SET)
        self._follower.came(position)
        return position

    def _copied(self, position: int, size: int) -> int:
        return _in_kernel(
            self._source.fileno(), self._target.fileno(), size, self._begin + position, position
        )

    def _read(self, position: int, end: int) -> memoryview:
        if not self._room:
            self._room = memoryview(bytearray(CHUNK))
        return _read(self._source.fileno(), self._room[: end - position], self._begin + position)


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
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left[:_WRITE], position)
        left, position = left[written:], position + written
