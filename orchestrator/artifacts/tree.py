"""Trees: what an artifact's files are, as one canonical blob; and collecting one from a hostile directory.

A tree blob is NDJSON sorted by path: `{"p","t","x","s","d"}` with t = f (file), l (link), d (empty directory).
No times, no owners, no place in a pack: equal content gives an equal digest. Parsing checks everything, since
a tree may come from a store that somebody else wrote.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from orchestrator.artifacts.guard import NO_GUARD, Guard
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Intake, Store
from orchestrator.progress import Meter
from orchestrator.sizes import readable_size

MAX_FILES = 1_000_000
MAX_DEPTH = 128
# One KiB less than a path may have: the rest is for the folder in which a tree is laid out.
MAX_PATH = 3072
# A file beyond this size is refused where it has next to nothing on the disk: reading terabytes of holes takes hours.
SPARSE_SIZE = 64 << 30
SPARSE_SHARE = 1 / 64

# RFC 8785 of strings and of sizes below 2^53, which is all that a line has; json's own encoder is seven times as fast.
_line = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)  # there may be a million of them
class TreeEntry:
    """One entry: a file (`digest`, `size`, `executable`), a link (`target`) or an empty directory."""

    path: str
    kind: str
    executable: bool = False
    size: int = 0
    digest: Digest | None = None
    target: str = ""

    def to_json(self) -> Json:
        """The line in a tree blob."""
        if self.kind == "f":
            return {"p": self.path, "t": "f", "x": int(self.executable), "s": self.size, "d": self.digest}
        return (
            {"p": self.path, "t": "l", "d": self.target} if self.kind == "l" else {"p": self.path, "t": "d"}
        )


def encode(entries: Iterable[TreeEntry]) -> bytes:
    """The blob of a tree."""
    blob = io.BytesIO()  # a list of the lines would take as much again
    for entry in sorted(entries, key=lambda entry: entry.path.encode()):
        blob.write(_line(entry.to_json()).encode() + b"\n")
    return blob.getvalue()


def parse(data: bytes) -> tuple[TreeEntry, ...]:
    """Read a tree blob, trusting nothing in it. Raises StoreError where any part cannot be used as a path."""
    entries: list[TreeEntry] = []
    kinds: dict[str, str] = {}
    line = b""
    try:
        for line in data.splitlines():
            if len(entries) == MAX_FILES:
                raise ValueError(f"more than {MAX_FILES:,} entries")
            entry = _parse_line(line)
            _place(kinds, entry)
            entries.append(entry)
        check_links(entries)
    except (ValueError, KeyError, TypeError, ArtifactError, StoreError, RecursionError) as error:
        raise StoreError(f"a tree in the store cannot be used: {error} in {line[:200]!r}") from error
    return tuple(entries)


def _parse_line(line: bytes) -> TreeEntry:
    item = json.loads(line)
    path, kind = check_path(item["p"]), item["t"]
    if path.count("/") > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if kind == "f":
        size = item["s"]
        if type(size) is not int or size < 0:
            raise ValueError(f"size {size!r}")
        return TreeEntry(path, "f", bool(item["x"]), size, parse_digest(item["d"]))
    if kind == "l":
        return TreeEntry(path, "l", target=check_link(path, item["d"]))
    if kind == "d":
        return TreeEntry(path, "d")
    raise ValueError(f"type {kind!r}")


def _place(kinds: dict[str, str], entry: TreeEntry) -> None:
    """Give an entry its place; ValueError where it is taken, or below something that is no directory."""
    if entry.path in kinds:
        raise ValueError("twice")
    above = entry.path.rpartition("/")[0]
    while above and above not in kinds:
        kinds[above] = "d"
        above = above.rpartition("/")[0]
    if above and kinds[above] != "d":
        raise ValueError("below something that is not a directory")
    kinds[entry.path] = entry.kind


def check_path(path: object) -> str:
    """Check a path inside an artifact before anything is opened by it. Raises ArtifactError."""
    if not isinstance(path, str) or not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise ArtifactError(f"a path in an artifact cannot be used: {str(path)[:200]!r}")
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path or not _is_text(path):
        raise ArtifactError(f"a path in an artifact cannot be used: {path[:200]!r}")
    return path


def check_link(path: str, target: object) -> str:
    """Check that a link is relative and stays inside its artifact. Raises ArtifactError."""
    if (
        isinstance(target, str)
        and target
        and not target.startswith("/")
        and "\0" not in target
        and _is_text(target)
    ):
        depth = path.count("/")
        for part in target.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                break
        else:
            return target
    raise ArtifactError(
        f"the link {path!r} -> {str(target)[:200]!r} leads out of the artifact",
        hint="save a copy of the file, or a relative link inside what is saved",
    )


def check_links(entries: Iterable[TreeEntry]) -> None:
    """Check that no chain of links leads out: after a step through a link, `..` is not where it is written.

    With ``a -> .``, ``b -> a/..`` stays inside by its letters, and leads out. Raises ArtifactError.
    """
    links = {entry.path: entry.target for entry in entries if entry.kind == "l"}
    for path, target in links.items():
        place = path.split("/")[:-1]
        through = False
        for part in target.split("/"):
            if part == "..":
                if through:
                    raise ArtifactError(
                        f"the link {path!r} -> {target[:200]!r} goes up again after it followed a link",
                        hint="save a copy of the file, or a link that does not pass another one",
                    )
                place.pop()
            elif part not in ("", "."):
                place.append(part)
                through = through or "/".join(place) in links


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Known(Protocol):
    """What is known of files without reading them."""

    def find(self, path: str, status: os.stat_result) -> Digest | None:
        """The digest of a file that has not changed."""

    def keep(self, path: str, status: os.stat_result, digest: Digest) -> None:
        """Remember a file."""


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
        entries = tuple(_Collector(intake, store, known, guard, meter, own=link).walk(folder, "", 0))
        check_links(entries)
    return entries


class _Collector:
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

    def walk(self, folder: int, prefix: str, depth: int) -> Iterator[TreeEntry]:
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
                    yield from self.walk(inner, path + "/", depth + 1)
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

    def _file(self, folder: int, name: str, path: str) -> TreeEntry:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
        descriptor = _open(name, os.O_RDONLY | os.O_NONBLOCK, folder, path)
        try:
            before = os.fstat(descriptor)
            _check_regular(before, path)
            _check_holes(before, path)
            self._guard.check_file(descriptor, before, path)
            try:
                with nullcontext() if self._meter is None else self._meter.reading(descriptor):
                    digest, size = self._intake.add(descriptor, before.st_size)
            except ArtifactError as error:
                raise ArtifactError(f"{path!r}: {error.message}", hint=error.hint) from error
            after = os.fstat(descriptor)
            # The time of modification can be put back by whoever owns the file, that of the last change cannot. A second
            # name changes the latter too: ours in the store, or that of another save.
            put_back = (
                not self._own
                and after.st_nlink == before.st_nlink
                and after.st_ctime_ns != before.st_ctime_ns
            )
            if put_back or (size, after.st_size, after.st_mtime_ns) != (
                before.st_size,
                before.st_size,
                before.st_mtime_ns,
            ):
                raise ArtifactError(
                    f"{path!r} changed while it was taken", hint="finish writing before it is saved"
                )
            if self._known is not None:
                self._known.keep(path, before, digest)
            return TreeEntry(path, "f", bool(before.st_mode & 0o111), size, digest)
        finally:
            os.close(descriptor)


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


@contextmanager
def _taking(path: str) -> Iterator[None]:
    """What the workflow's files refuse is the artifact's fault; what this process lacks may pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise StoreError(f"{path!r} cannot be read: {error.strerror}") from error
        raise ArtifactError(f"{path!r} cannot be taken: {error.strerror}") from error
