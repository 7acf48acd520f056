"""Taking the files of a folder into a store, as a tree: of a folder that may be hostile, and of many files in threads."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Protocol

from orchestrator.artifacts.guard import NO_GUARD, Guard
from orchestrator.artifacts.stat_index import is_blob
from orchestrator.artifacts.tree import MAX_DEPTH, MAX_FILES, TreeEntry, check_link, check_links, check_path
from orchestrator.digest import Digest
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Ahead, Intake, Store
from orchestrator.progress import Meter
from orchestrator.sizes import readable_size
from orchestrator.store.helping import Together

# A file beyond this size is refused where it has next to nothing on the disk: reading terabytes of holes takes hours.
SPARSE_SIZE = 64 << 30
SPARSE_SHARE = 1 / 64
# Files of these sizes wait for each other, and where they are many a second process takes part.
_WORTH, _MOST = 4 << 10, 4 << 20


class Known(Protocol):
    """What is known of files without reading them."""

    def find(self, path: str, status: os.stat_result) -> Digest | None:
        """The digest of a file that has not changed."""

    def keep(self, path: str, status: os.stat_result, digest: Digest) -> None:
        """Remember a file."""

    def sealed(self, files: Mapping[tuple[int, int], Digest]) -> None:
        """Device and inode of files that became blobs where they lie."""


def collect(
    store: Store,
    folder: int,
    guard: Guard = NO_GUARD,
    *,
    known: Known | None = None,
    link: bool = False,
    meter: Meter | None = None,
) -> tuple[TreeEntry, ...]:
    """Take everything below an open directory into the store, as a tree.

    ``known`` may spare reading what has not changed; ``link`` lets the store keep the files as they lie. Only for
    folders of the caller's own.

    Works by directory descriptors and never follows a link: what is hashed is what was copied, whoever
    writes there meanwhile. Raises ArtifactError for sockets, devices, pipes, links that lead out, names
    that are not UTF-8, a file that changes under the copy, more than MAX_FILES files, and what ``guard`` refuses;
    StoreError where the bytes cannot be kept.
    """
    with store.intake(link=link) as intake:
        entries = _Collector(intake, store, known, guard, meter, own=link).all(folder)
        check_links(entries)
    if known is not None:
        known.sealed(intake.sealed)
    return entries


class _Later:
    """An open file that waits for its turn."""

    __slots__ = ("before", "descriptors", "entry", "path", "size")
    entry: TreeEntry

    def __init__(self, descriptor: int, before: os.stat_result, path: str) -> None:
        self.descriptors = (descriptor,)
        self.size = before.st_size
        self.before = before
        self.path = path


class _Collector:
    """Walks, and names what is taken; of many files, a helper reads half."""

    def __init__(
        self,
        intake: Intake,
        store: Store,
        known: Known | None,
        guard: Guard,
        meter: Meter | None,
        *,
        own: bool,
    ) -> None:
        self._meter = meter
        self._intake = intake
        self._own = own
        self._store = store
        self._known = known
        self._guard = guard
        self._count = 0
        self._together: Together[_Later, Ahead] = Together(intake.helper, self._take)
        self._open: set[int] = set()  # descriptors of all that wait

    def all(self, folder: int) -> tuple[TreeEntry, ...]:
        """Everything below an open directory, in order."""
        try:
            found = list(self._walk(folder, "", 0))
            self._together.finish()
            return tuple(each.entry if isinstance(each, _Later) else each for each in found)
        finally:
            self._together.close()
            for descriptor in self._open:
                os.close(descriptor)

    def _take(self, each: _Later, ahead: Ahead | None) -> None:
        (descriptor,) = each.descriptors
        self._open.discard(descriptor)
        each.entry = self._taken(descriptor, each.before, each.path, ahead)

    def _walk(self, folder: int, prefix: str, depth: int) -> Iterator[TreeEntry | _Later]:
        if depth > MAX_DEPTH:
            raise ArtifactError(f"directories are nested more than {MAX_DEPTH} deep at {prefix[:200]!r}")
        names = self._names(folder, prefix)
        if not names and prefix:
            yield TreeEntry(prefix.rstrip("/"), "d")
        for name in names:
            path = check_path(prefix + name)
            self._guard.check_text(path.encode(), "the name of a file in it")
            with _taking(path):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(status.st_mode) else None
            if target is not None:
                self._guard.check_text(os.fsencode(target), f"the link {path!r}")
                yield TreeEntry(path, "l", target=check_link(path, target))
            elif stat.S_ISDIR(status.st_mode):
                inner = _open(name, os.O_RDONLY | os.O_DIRECTORY, folder, path)
                try:
                    yield from self._walk(inner, path + "/", depth + 1)
                finally:
                    os.close(inner)
            else:
                _check_regular(status, path)  # before it is opened: opening a device can have effects
                yield self._unchanged(path, status) or self._file(folder, name, path)

    def _unchanged(self, path: str, status: os.stat_result) -> TreeEntry | None:
        """A file that was hashed before and is in the store still."""
        digest = None if self._known is None else self._known.find(path, status)
        if digest is None or not self._store.has(digest):
            return None
        return TreeEntry(path, "f", bool(status.st_mode & 0o111), status.st_size, digest)

    def _names(self, folder: int, prefix: str) -> list[str]:
        names: list[str] = []
        with _taking(prefix or "the artifact's folder"), os.scandir(folder) as items:
            for item in items:
                names.append(item.name)
                if self._count + len(names) > MAX_FILES:
                    raise ArtifactError(
                        f"more than {MAX_FILES:,} files in one artifact", hint="pack them into archives"
                    )
        self._count += len(names)
        return sorted(names)

    def _file(self, folder: int, name: str, path: str) -> TreeEntry | _Later:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
        descriptor = _open(name, os.O_RDONLY | os.O_NONBLOCK, folder, path)
        try:
            before = os.fstat(descriptor)
            _check_regular(before, path)
            _check_holes(before, path)
            self._guard.check_file(descriptor, before, path)
        except BaseException:
            os.close(descriptor)
            raise
        if not _WORTH <= before.st_size <= _MOST:
            return self._taken(descriptor, before, path)
        later = _Later(descriptor, before, path)
        self._open.add(descriptor)
        self._together.add(later)
        return later

    def _taken(
        self, descriptor: int, before: os.stat_result, path: str, ahead: Ahead | None = None
    ) -> TreeEntry:
        """Take an open file, and close it."""
        try:
            with _told_of(path), nullcontext() if self._meter is None else self._meter.reading(descriptor):
                digest, size = self._intake.add(descriptor, before.st_size, ahead)
            after = os.fstat(descriptor)
            # The time of modification can be put back by whoever owns the file, that of the last change cannot. A second
            # name changes the latter too: ours in the store, or that of another save.
            put_back = (
                not self._own
                and after.st_nlink == before.st_nlink
                and after.st_ctime_ns != before.st_ctime_ns
            )
            stamps = size, after.st_size, after.st_mtime_ns
            if (
                put_back or stamps != (before.st_size, before.st_size, before.st_mtime_ns)
            ) and not self._is_ours(after, digest):
                raise ArtifactError(
                    f"{path!r} changed while it was taken", hint="finish writing before it is saved"
                )
            if self._known is not None:
                self._known.keep(path, before, digest)
            return TreeEntry(path, "f", bool(before.st_mode & 0o111), size, digest)
        finally:
            os.close(descriptor)

    def _is_ours(self, status: os.stat_result, digest: Digest) -> bool:
        """Whether a file became a blob by another of its names meanwhile, which changed its time stamp."""
        return self._intake.sealed.get((status.st_dev, status.st_ino)) == digest and is_blob(status)


def _check_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path!r} is not a regular file ({stat.filemode(status.st_mode)})")


def _check_holes(status: os.stat_result, path: str) -> None:
    on_disk = status.st_blocks * 512
    if status.st_size > SPARSE_SIZE and on_disk < status.st_size * SPARSE_SHARE:
        raise ArtifactError(
            f"{path!r} is {readable_size(status.st_size)} long with {readable_size(on_disk)} in it, the rest is holes",
            hint="save what is in it, not the room around it",
        )


def _open(name: str, flags: int, folder: int, path: str) -> int:
    with _taking(path):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


class _about:
    """A context manager that knows which file it is about: a class, since there may be a million of them."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass


class _told_of(_about):
    """Says in an ArtifactError which file it is about."""

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ArtifactError):
            raise ArtifactError(f"{self._path!r}: {error.message}", hint=error.hint) from error


class _taking(_about):
    """What the workflow's files refuse is the artifact's fault; what this process lacks may pass."""

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise StoreError(f"{self._path!r} cannot be read: {error.strerror}") from error
        raise ArtifactError(f"{self._path!r} cannot be taken: {error.strerror}") from error
