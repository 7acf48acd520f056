"""A large blob on its way into a folder in extents: written by threads, hashed behind them, and gone on with by another process.

Until it is whole, the file has notes behind the blob's bytes: a head, and for each extent to where it has come. Only what
was written is noted; what a power cut kept of either is found by the digest, and then all of it comes again.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from orchestrator.digest import CHUNK, Digest, hex_of
from orchestrator.store import mounts
from orchestrator.store.disk import told
from orchestrator.store.following import Follower, write_at
from orchestrator.store.staging import Place, StagedFile, remove

_HEAD = struct.Struct("<16sQ")  # what it is, and bytes of an extent
_KIND = b"mirage-part/1".ljust(16, b"\0")
_END = struct.Struct("<Q")  # of an extent: the position to which it is there, 0 where it was not begun
_EACH = 4 << 20  # bytes of an extent between two notes
_ZEROS = bytes(CHUNK)


def _seen_from(folder: str) -> str:
    """What tells this machine's part of a file from another's, where both see the folder.

    flock(2) may hold on one machine alone there.
    """
    if mounts.is_near(folder):
        return ""
    with open("/proc/sys/kernel/random/boot_id", "rb") as source:
        return f".{source.read(8).decode()}"


class Scattered(StagedFile):
    """One file of known size and digest under `staging/`; several threads each write extents from their begins on.

    ``resumed``: whether an earlier process left a part of it. One process at a time goes on with a file; another one that
    wants the same makes its own.
    """

    def __init__(self, place: Place, digest: Digest, size: int, extent: int) -> None:
        self._wanted = digest
        self._extent = extent
        super().__init__(place)
        self.size = size
        self.resumed = False
        self._spared = False
        self._digest: Digest | None = None
        self._extents = -(-size // extent)
        self._lock = threading.Lock()
        self._streams = 0
        self._noted: dict[int, int] = {}  # extent: to where it was noted
        try:
            with told(self._what):
                self._follower = Follower(self._descriptor, size, extent)
                self._go_on()
        except BaseException:
            self.discard()
            raise

    def missing(self) -> Iterator[tuple[int, int]]:
        """What is to come of each extent that is not whole: from where, and to where."""
        noted = dict(self._noted)  # as it was: others write meanwhile
        for number in range(self._extents):
            start = noted.get(number, number * self._extent)
            end = min((number + 1) * self._extent, self.size)
            if start < end:
                yield start, end

    def write_at(self, piece: bytes, position: int) -> None:
        """Go on with an extent; whole pieces of zeros stay holes. Raises StoreError where another's end ended this."""
        end, number = position + len(piece), position // self._extent
        with told(self._what):
            if len(piece) != CHUNK or piece != _ZEROS:
                write_at(self._descriptor, piece, position)
            done = end == self.size or end % self._extent == 0
            if done or end - self._noted.get(number, number * self._extent) >= _EACH:
                write_at(self._descriptor, _END.pack(end), self._note(number))
                self._noted[number] = end
        self._follower.came(end)

    def check(self) -> None:
        """Raise StoreError where another's end has ended this."""
        self._follower.check()

    def fail(self, error: BaseException) -> None:
        """Let nobody wait for what will not come, or write on."""
        self._follower.fail(error)

    def follow(self, count: Callable[[int], object]) -> Digest:
        """Hash it as it comes, to its end; ``count`` hears of what was hashed. Raises what failed."""
        with told(self._what):
            self._digest = self._follower.digest(count)
        return self._digest

    def digest(self) -> Digest:
        """The digest of all of it, once it was followed."""
        assert self._digest is not None, "not followed"
        return self._digest

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible; where that is interrupted, another process goes on with it."""
        try:
            return super().commit()
        except BaseException as error:
            if not isinstance(error, Exception):
                self.spare()
            raise

    def finish(self, *, durable: bool) -> None:
        """End writing, as every staged file: it is the blob then, without notes."""
        if durable:
            os.fsync(self._descriptor)  # the long part, while another process could still go on with it
        os.ftruncate(self._descriptor, self.size)
        super().finish(durable=durable)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Held by a thread that writes."""
        with self._lock:
            self._streams += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams -= 1

    def spare(self) -> None:
        """Leave it where it is, for a process that goes on with it: nothing of what came was seen to be wrong."""
        self._spared = True

    def discard(self) -> None:
        """Close, and leave nothing under `staging/` that was not handed over, named or spared."""
        if self._spared and self._noted and self.path.endswith(".part"):
            self.hand_over()
        with self._lock:
            if self._streams:
                # Whoever interrupts also the wait for a stream ends this process: its number is not used again until then.
                if self._mine:
                    remove(self.path)
                self._descriptor = -1
        super().discard()

    def _opened(self, place: Place) -> tuple[str, int]:
        path = os.path.join(place.staging(), f"{hex_of(self._wanted)}{_seen_from(place.staging())}.part")
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            try:
                descriptor = os.open(path, flags | os.O_RDWR, 0o644)
            except (
                PermissionError
            ):  # sealed by a process that died just then, before it gave it its name: it goes
                descriptor = os.open(path, flags | os.O_RDONLY, 0o644)
        except OSError:  # another user's, or something else has its name
            return super()._opened(place)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(descriptor), os.lstat(path)
            if (
                stat.S_ISREG(mine.st_mode)
                and (mine.st_uid, mine.st_nlink) == (os.geteuid(), 1)
                and not mine.st_mode & 0o022
                and os.path.samestat(mine, there)  # not what was named, or removed, a moment ago
            ):
                if mine.st_mode & 0o200:
                    return path, descriptor
                os.unlink(path)
        except BlockingIOError:  # another process is at it
            pass
        except OSError:  # it cannot be locked here
            with suppress(OSError):
                if not os.fstat(descriptor).st_size:
                    os.unlink(path)
        os.close(descriptor)
        return super()._opened(place)

    def _go_on(self) -> None:
        """Take up what is noted in the file, or make it empty and as long as it will be."""
        head, length = _HEAD.pack(_KIND, self._extent), self._note(self._extents)
        if (
            os.fstat(self._descriptor).st_size == length
            and os.pread(self._descriptor, _HEAD.size, self.size) == head
        ):
            notes = os.pread(self._descriptor, self._extents * _END.size, self._note(0))
            for number, (noted,) in enumerate(_END.iter_unpack(notes)):
                if number * self._extent < noted <= min((number + 1) * self._extent, self.size):
                    self._noted[number] = noted
                    self._follower.came(noted)
        self.resumed = bool(self._noted)
        if not self.resumed:
            os.ftruncate(self._descriptor, 0)
            os.ftruncate(self._descriptor, length)
            write_at(self._descriptor, head, self.size)

    def _note(self, number: int) -> int:
        """Where the note of an extent lies."""
        return self.size + _HEAD.size + number * _END.size
