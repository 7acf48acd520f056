"""Many files on their way into a folder: staged one by one, durable with one sync, and then named."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.digest import CHUNK, Digest, of_bytes, of_hasher, sha256
from orchestrator.errors import ArtifactError
from orchestrator.store import following, mounts
from orchestrator.store.disk import NO_LINK, RACY, EarlySync, sync, sync_many, told, write_all
from orchestrator.store.staging import Place, Staged, remove, seal, staged_name

if TYPE_CHECKING:
    from orchestrator.ports import Ahead
    from orchestrator.store.helping import Taker

# How many files of an intake wait for one sync: bounds memory, and what is lost with the process.
TOGETHER = 16384
_ROOM = 256 << 10  # bytes of memory into which files are read, at least


class FolderIntake:
    """An Intake: many files, durable and visible together, with one sync instead of one for each."""

    def __init__(self, place: Place, *, link: bool = False) -> None:
        self._place = place
        self._link = link
        self._what = f"write to the store {place.location}"
        self._waiting: dict[Digest, tuple[str, str]] = {}  # where it is staged, what its name will be
        # staged names of the owner's files: size and mtime when hashed, and the digest
        self._linked: dict[str, tuple[int, int, Digest]] = {}
        # device and inode of those that were given a blob's time stamp
        self.sealed: dict[tuple[int, int], Digest] = {}
        self._folders: set[str] = set()
        self._staged: set[str] = set()  # and not waiting yet
        self._buffer = memoryview(b"")
        self._early = EarlySync()

    def helper(self) -> Taker | None:
        """Start a process that reads files for this intake, if one can be had; to be closed before it."""
        from orchestrator.store.helping import Taker

        try:
            return Taker(self._place.location, self._link, self._staged)
        except OSError:  # no memory, too many processes: then it takes longer
            return None

    def ahead(self, descriptor: int, size: int) -> Ahead:
        """Read an open file that fits into memory, and stage it for the caller: in a helper. Raises as ``add``."""
        found = self._linked_ahead(descriptor, size) or self._copied(self._read(descriptor, size))
        if found[2] is not None:
            self._staged.discard(found[2])
        return found

    def add(self, descriptor: int, size: int, ahead: Ahead | None = None) -> tuple[Digest, int]:
        """Take ``size`` bytes of an open file, fewer of a small one that has fewer; gives digest and size of what was taken.

        ``ahead``: what a helper made of it.
        """
        self._flush_if_many()
        found = ahead or self._linked_ahead(descriptor, size)
        if found is None and size >= following.LARGE:
            return self._add_large(descriptor, size)
        return self._keep(found or self._copied(self._read(descriptor, size)))

    def add_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        """Take bytes in memory."""
        self._flush_if_many()
        return self._keep(self._copied(data))

    def _flush_if_many(self) -> None:
        """Before the next file: whoever added the last may still look at its times, which a flush sets."""
        if len(self._waiting) >= TOGETHER:
            self.flush()

    def _linked_ahead(self, descriptor: int, size: int) -> Ahead | None:
        """Hash a file where it lies and give it a second name under `staging/`; None where only a copy will do."""
        before = os.fstat(descriptor) if self._link else None
        if before is None or before.st_size != size or not size or before.st_mode & 0o111:
            return None  # an empty file is shared by too many; an executable one would lose its bit
        if os.geteuid() not in (0, before.st_uid) or before.st_mtime_ns > time.time_ns() - RACY:
            return None  # it is not ours to make read-only; or its time would not tell of a change while it is hashed
        digest = self._digest_of(descriptor, size)
        with told(self._what):
            if digest in self._waiting or self._place.present(digest, size):
                return digest, size, None, None
            path = staged_name(self._place)
            try:
                # The very file that was hashed, whatever its name is by now (linkat(2), AT_SYMLINK_FOLLOW). Python
                # calls link(2), which does not follow, unless it is given a directory; an absolute path ignores it.
                with suppress(FileExistsError):  # nobody else has that name: a lost answer, asked for again
                    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
            except OSError as error:
                if error.errno not in NO_LINK and not isinstance(error, FileNotFoundError):
                    raise
                os.lseek(descriptor, 0, os.SEEK_SET)
                return None
            self._staged.add(path)
        return digest, size, path, (before.st_size, before.st_mtime_ns)

    def _copied(self, data: bytes | memoryview) -> Ahead:
        """The digest of bytes, and a copy under `staging/` unless the store has them."""
        digest, size = of_bytes(data), len(data)
        with told(self._what):
            if digest in self._waiting or self._place.present(digest, size):
                return digest, size, None, None
            path = staged_name(self._place)
            self._staged.add(path)
            try:
                _write_small(path, data)
            except BaseException:
                remove(path)
                raise
        return digest, size, path, None

    def _keep(self, found: Ahead) -> tuple[Digest, int]:
        """Let what was staged wait for its name."""
        digest, size, path, stamp = found
        with told(self._what):
            if digest not in self._waiting:
                name = self._place.room_for(digest)
                self._folders.add(name[: name.rindex("/")])
                if path is not None:
                    self._waiting[digest] = path, name
                    if stamp is not None:
                        self._linked[path] = (*stamp, digest)
                    else:
                        self._early.made(size, self._place.staging)
            elif path is not None:  # another file was the same
                os.unlink(path)
            if path is not None:
                self._staged.discard(path)
        return digest, size

    def _seal_linked(self) -> None:
        """Make the owner's files read-only, unless somebody wrote to one since it was hashed."""
        for path, (size, mtime, digest) in self._linked.items():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if (status.st_size, status.st_mtime_ns) != (size, mtime):
                    raise ArtifactError(
                        "a file changed while it was taken",
                        hint="finish writing before it is added with --link",
                    )
                seal(descriptor)
                self.sealed[status.st_dev, status.st_ino] = digest
            finally:
                os.close(descriptor)
        self._linked.clear()

    def _add_large(self, descriptor: int, size: int) -> tuple[Digest, int]:
        staged = Staged(self._place)
        try:
            digest = staged.copy(descriptor, size)
            with told(self._what):
                name = self._name_if_new(digest, staged.size)
                if name is not None:
                    staged.finish(durable=False)
                    self._waiting[digest] = staged.hand_over(), name
        except following.Unreadable as error:
            raise ArtifactError(str(error), hint="finish writing before it is taken") from error
        finally:
            staged.discard()
        return digest, staged.size

    def _name_if_new(self, digest: Digest, size: int) -> str | None:
        """The path that the blob will have, or None where it is there or on its way."""
        if digest in self._waiting:
            return None
        name = self._place.room_for(digest)
        self._folders.add(os.path.dirname(name))
        return None if self._place.present(digest, size) else name

    def _read(self, descriptor: int, size: int) -> memoryview:
        """At most ``size`` bytes of an open file, until the next are read. ArtifactError where it cannot be read."""
        buffer = self._room(size)
        count = 0
        while count < size and (got := _read_into(descriptor, buffer[count:size])):
            count += got
        return buffer[:count]

    def _digest_of(self, descriptor: int, size: int) -> Digest:
        """The digest of the next ``size`` bytes of an open file. ArtifactError where it is shorter, or cannot be read."""
        hasher, buffer = sha256(), self._room(min(size, CHUNK))
        while size > 0:
            count = _read_into(descriptor, buffer[:size])
            if not count:
                raise ArtifactError(
                    "a file changed while it was taken", hint="finish writing before it is added"
                )
            hasher.update(buffer[:count])
            size -= count
        return of_hasher(hasher)

    def _room(self, size: int) -> memoryview:
        """At least so many bytes of memory, the same each time."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(max(size, _ROOM)))
        return self._buffer

    def flush(self) -> None:
        """Make what was added durable, then visible."""
        with told(self._what):
            self._seal_linked()
            self._early.wait()
            sync_many([path for path, _ in self._waiting.values()], self._place.staging(), self._early)
            while self._waiting:
                digest, (path, name) = self._waiting.popitem()
                try:
                    mounts.rename(path, name, partial(self._place.present, digest, None))
                except BaseException:
                    remove(path)
                    raise
            for folder in self._folders:
                sync(folder)
            self._folders.clear()

    def discard(self) -> None:
        """Leave nothing under `staging/`."""
        try:
            for path in (*self._staged, *(path for path, _ in self._waiting.values())):
                remove(path)
        finally:
            self._early.close()


def _write_small(path: str, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
        seal(descriptor)
    finally:
        os.close(descriptor)


def _read_into(descriptor: int, buffer: memoryview) -> int:
    """Read an open file on from its position; gives how many bytes came, 0 at its end. ArtifactError where it cannot be."""
    try:
        return os.readv(descriptor, [buffer])
    except OSError as error:
        raise ArtifactError(f"a file cannot be read: {error.strerror}") from error
