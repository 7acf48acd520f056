"""Writing deterministic tar layers: sorted entries, fixed owner, normalised modes, fixed time stamps.

The same entries give the same bytes on every machine. This file is also sent into the builder container,
where it runs on the base's own Python, so it imports the standard library only and nothing of ours.

Format: POSIX.1-2001 pax (IEEE Std 1003.1, pax, "pax Interchange Format"), as the OCI image-spec's layer.md
asks for; rules and measurements in docs/how-it-works.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

# 1980-01-01T00:00:00Z: zip files inside the environment refuse anything earlier.
MTIME = 315532800
_BLOCK = 512
_CHUNK = 1 << 20
_OCTAL_SIZE_LIMIT = 8 << 30


class Entry(NamedTuple):
    """One entry of a layer; ``path`` is relative, without a leading slash or ``./``.

    ``kind`` is ``"file"``, ``"dir"`` or ``"link"``; a file's bytes come from ``data`` (in memory) or from
    the file at ``source``; a link's verbatim target is ``data``.
    """

    path: bytes
    kind: str
    executable: bool = False
    data: bytes = b""
    source: bytes | None = None


class LayerError(ValueError):
    """An entry that cannot be in a layer."""


def check_path(path: bytes) -> bytes:
    """Give the path back, or raise LayerError where it is empty, absolute, climbs out, or is a whiteout.

    A name that begins with `.wh.` would hide a file instead of being one (OCI image-spec, layer.md, "Whiteouts").
    """
    parts = path.split(b"/")
    if not path or path.startswith(b"/") or b"\0" in path or any(p in (b"", b".", b"..") for p in parts):
        raise LayerError(f"a layer cannot hold the path {path!r}")
    if any(p.startswith(b".wh.") for p in parts):
        raise LayerError(f"a layer cannot hold the name {path!r}: .wh. marks what a layer hides")
    return path


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _raw_header(
    name: bytes, mode: int, size: int, kind: bytes, link: bytes, uid: int = 0, gid: int = 0
) -> bytes:
    fields = [
        name[:100].ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % min(uid, 0o7777777),
        b"%07o\0" % min(gid, 0o7777777),
        b"%011o\0" % (size if size < _OCTAL_SIZE_LIMIT else 0),
        b"%011o\0" % MTIME,
        b" " * 8,
        kind,
        link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        b"\0" * 32,  # user name: none
        b"\0" * 32,  # group name: none
        b"0000000\0",
        b"0000000\0",
        b"\0" * 155,
        b"\0" * 12,
    ]
    block = b"".join(fields)
    checksum = sum(block)
    return block[:148] + b"%06o\0 " % checksum + block[156:]


def header(
    name: bytes,
    mode: int,
    size: int,
    kind: bytes,
    link: bytes = b"",
    uid: int = 0,
    gid: int = 0,
    extra: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """The header blocks of one entry, with a pax extension where the plain fields cannot hold it."""
    records = list(extra)
    if len(name) > 100 or not name.isascii():
        records.append((b"path", name))
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
    if size >= _OCTAL_SIZE_LIMIT:
        records.append((b"size", b"%d" % size))
    if uid > 0o7777777:
        records.append((b"uid", b"%d" % uid))
    if gid > 0o7777777:
        records.append((b"gid", b"%d" % gid))
    if not records:
        return _raw_header(name, mode, size, kind, link, uid, gid)
    if not all(_is_utf8(value) for key, value in records if key in (b"path", b"linkpath")):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    body = b"".join(_pax_record(key, value) for key, value in records)
    return (
        _raw_header(b"././@PaxHeader", 0o644, len(body), b"x", b"")
        + body
        + padding(len(body))
        + _raw_header(name, mode, size, kind, link, uid, gid)
    )


def padding(size: int) -> bytes:
    """The zero bytes that fill the last block of a body of ``size`` bytes."""
    return b"\0" * (-size % _BLOCK)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in bytewise order of their paths, each missing parent directory added once.

    Raises LayerError where two entries have one path or a parent is not a directory.
    """
    found: dict[bytes, Entry] = {}
    for entry in entries:
        check_path(entry.path)
        if entry.path in found and not (entry.kind == found[entry.path].kind == "dir"):
            raise LayerError(f"two entries have the path {entry.path!r}")
        found[entry.path] = entry
    for path in list(found):
        parent = path.rpartition(b"/")[0]
        while parent:
            if parent not in found:
                found[parent] = Entry(parent, "dir")
            elif found[parent].kind != "dir":
                raise LayerError(f"{path!r} lies below {parent!r}, which is not a directory")
            parent = parent.rpartition(b"/")[0]
    return [found[path] for path in sorted(found)]


def write(entries: Iterable[Entry], sink: Callable[[memoryview], object]) -> None:
    """Write the layer to ``sink``, in pieces of 1 MiB, each valid until the sink returns.

    Raises LayerError for a bad path, or where a source file's size changes while it is read.
    """
    batch = _Batch(sink)
    for entry in in_order(entries):
        if entry.kind == "dir":
            batch.add(header(entry.path + b"/", 0o755, 0, b"5"))
        elif entry.kind == "link":
            batch.add(header(entry.path, 0o777, 0, b"2", entry.data))
        elif entry.source is None:
            mode = 0o755 if entry.executable else 0o644
            batch.add(header(entry.path, mode, len(entry.data), b"0"))
            batch.add(entry.data)
            batch.add(padding(len(entry.data)))
        else:
            _write_file(entry, entry.source, batch)
    batch.add(b"\0" * (2 * _BLOCK))
    batch.flush()


class _Batch:
    """One buffer, used again and again: fresh memory for each file costs as much as hashing it."""

    def __init__(self, sink: Callable[[memoryview], object]) -> None:
        self._sink = sink
        self._view = memoryview(bytearray(_CHUNK))
        self._used = 0

    def add(self, data: bytes) -> None:
        """Add bytes."""
        start = 0
        while start < len(data):
            piece = (
                data[start : start + _CHUNK - self._used]
                if start or len(data) > _CHUNK - self._used
                else data
            )
            self._view[self._used : self._used + len(piece)] = piece
            start += len(piece)
            self._took(len(piece))

    def read(self, descriptor: int, most: int) -> int:
        """Add up to ``most`` bytes of an open file; gives how many, 0 at its end."""
        count = os.readv(descriptor, [self._view[self._used : self._used + most]])
        self._took(count)
        return count

    def flush(self) -> None:
        """Hand over what is there."""
        if self._used:
            self._sink(self._view[: self._used])
            self._used = 0

    def _took(self, count: int) -> None:
        self._used += count
        if self._used == _CHUNK:
            self.flush()


def _write_file(entry: Entry, source: bytes, batch: _Batch) -> None:
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        size = os.fstat(descriptor).st_size
        batch.add(header(entry.path, 0o755 if entry.executable else 0o644, size, b"0"))
        left = size
        while left:
            count = batch.read(descriptor, left)
            if not count:
                raise LayerError(f"{source!r} became shorter while it was read")
            left -= count
        if os.read(descriptor, 1):
            raise LayerError(f"{source!r} became longer while it was read")
        batch.add(padding(size))
    finally:
        os.close(descriptor)


def scan(top: bytes, prefix: bytes) -> list[Entry]:
    """The entries of a directory tree on disk, to stand below ``prefix`` in the layer.

    Regular files, directories and symbolic links; raises LayerError for anything else.
    """
    found: list[Entry] = [Entry(prefix, "dir")]
    pending = [(top, prefix)]
    while pending:
        folder, name = pending.pop()
        with os.scandir(folder) as items:
            for item in items:
                path = name + b"/" + item.name
                if item.is_symlink():
                    found.append(Entry(path, "link", data=os.readlink(item.path)))
                elif item.is_dir(follow_symlinks=False):
                    found.append(Entry(path, "dir"))
                    pending.append((item.path, path))
                elif item.is_file(follow_symlinks=False):
                    mode = item.stat(follow_symlinks=False).st_mode
                    found.append(Entry(path, "file", bool(mode & 0o111), source=item.path))
                else:
                    kind = stat.filemode(item.stat(follow_symlinks=False).st_mode)[0]
                    raise LayerError(f"{item.path!r} is neither file, directory nor link ({kind})")
    return found


def to_bytes(entries: Iterable[Entry]) -> bytes:
    """A small layer as one piece of memory."""
    found = bytearray()
    write(entries, found.extend)
    return bytes(found)


def to_file(entries: Iterable[Entry], target: BinaryIO) -> str:
    """Write the layer to an open file; gives the sha256 of its bytes as 64 hex digits."""
    hasher = hashlib.sha256()

    def sink(piece: memoryview) -> None:
        hasher.update(piece)
        target.write(piece)

    write(entries, sink)
    return hasher.hexdigest()
