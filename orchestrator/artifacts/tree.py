"""Trees: what an artifact's files are, as one canonical blob; and collecting one from a hostile directory.

A tree blob is NDJSON sorted by path: `{"p","t","x","s","d"}` with t = f (file), l (link), d (empty directory).
No times, no owners, no place in a pack: equal content gives an equal digest. Parsing checks everything, since
a tree may come from a store that somebody else wrote.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import CHUNK, Digest, parse_digest
from orchestrator.errors import ArtifactError, StoreError
from orchestrator.ports import Store

MAX_FILES = 1_000_000
MAX_DEPTH = 128
MAX_PATH = 4096


@dataclass(frozen=True)
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
    ordered = sorted(entries, key=lambda entry: entry.path.encode())
    return b"".join(canonical.encode(entry.to_json()) + b"\n" for entry in ordered)


def parse(data: bytes) -> tuple[TreeEntry, ...]:
    """Read a tree blob, trusting nothing in it. Raises StoreError where any part cannot be used as a path."""
    entries: list[TreeEntry] = []
    kinds: dict[str, str] = {}
    for line in data.splitlines():
        try:
            item = json.loads(line)
            path, kind = item["p"], item["t"]
            check_path(path)
            if path in kinds:
                raise ValueError("twice")
            parents = path.split("/")[:-1]
            for count in range(1, len(parents) + 1):
                if kinds.setdefault("/".join(parents[:count]), "d") != "d":
                    raise ValueError("below something that is not a directory")
            kinds[path] = kind
            if kind == "f":
                size = item["s"]
                if not isinstance(size, int) or size < 0:
                    raise ValueError(f"size {size!r}")
                entries.append(TreeEntry(path, "f", bool(item["x"]), size, parse_digest(item["d"])))
            elif kind == "l":
                check_link(path, item["d"])
                entries.append(TreeEntry(path, "l", target=item["d"]))
            elif kind == "d":
                entries.append(TreeEntry(path, "d"))
            else:
                raise ValueError(f"type {kind!r}")
        except (ValueError, KeyError, TypeError, ArtifactError, StoreError, RecursionError) as error:
            raise StoreError(f"a tree in the store cannot be used: {error} in {line[:200]!r}") from error
    return tuple(entries)


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
        f"the link {path} -> {str(target)[:200]!r} leads out of the artifact",
        hint="save a copy of the file, or a relative link inside what is saved",
    )


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def collect(store: Store, folder: int) -> tuple[TreeEntry, ...]:
    """Take everything below an open directory into the store, as a tree.

    Works by directory descriptors and never follows a link: what is hashed is what was copied, whoever
    writes there meanwhile. Raises ArtifactError for sockets, devices, pipes, links that lead out, names
    that are not UTF-8, and more than MAX_FILES files; StoreError where the bytes cannot be kept.
    """
    return tuple(_Collector(store).walk(folder, "", 0))


class _Collector:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = 0

    def walk(self, folder: int, prefix: str, depth: int) -> Iterator[TreeEntry]:
        if depth > MAX_DEPTH:
            raise ArtifactError(f"directories are nested more than {MAX_DEPTH} deep at {prefix[:200]!r}")
        names = sorted(os.listdir(folder))
        if not names and prefix:
            yield TreeEntry(prefix.rstrip("/"), "d")
        for name in names:
            self._count += 1
            if self._count > MAX_FILES:
                raise ArtifactError(
                    f"more than {MAX_FILES:,} files in one artifact", hint="pack them into archives"
                )
            path = check_path(prefix + name)
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                yield TreeEntry(path, "l", target=check_link(path, os.readlink(name, dir_fd=folder)))
            elif stat.S_ISDIR(mode):
                inner = _open(name, os.O_RDONLY | os.O_DIRECTORY, folder, path)
                try:
                    yield from self.walk(inner, path + "/", depth + 1)
                finally:
                    os.close(inner)
            else:
                yield self._file(folder, name, path)

    def _file(self, folder: int, name: str, path: str) -> TreeEntry:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
        descriptor = _open(name, os.O_RDONLY | os.O_NONBLOCK, folder, path)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path} is not a regular file ({stat.filemode(status.st_mode)})")
            with self._store.writer() as writer:
                while piece := os.read(descriptor, CHUNK):
                    writer.write(piece)
                digest, size = writer.commit()
            return TreeEntry(path, "f", bool(status.st_mode & 0o111), size, digest)
        finally:
            os.close(descriptor)


def _open(name: str, flags: int, folder: int, path: str) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES, errno.ENOENT):
            raise ArtifactError(f"{path} cannot be taken: {error.strerror}") from error
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
