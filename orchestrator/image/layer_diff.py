"""Where two layers differ: files that only one has, and what differs in those that both have."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.digest import CHUNK
from orchestrator.errors import ImageError

_PYC_HEADER = 16  # PEP 552: magic, flags, then a hash or time and size
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Difference:
    """A file, what differs (`only before`, `only now`, `content`, or fields), and why, where that is known."""

    file: str
    what: str
    reason: str = ""


@dataclass(frozen=True)
class _Member:
    kind: str
    fields: tuple[tuple[str, object], ...]
    digest: str
    head: bytes


class _Stream(io.RawIOBase):
    """Pieces as something to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def compare(before: Iterator[bytes], now: Iterator[bytes], built: Mapping[str, str]) -> list[Difference]:
    """The differences of two layers, by name. ``built`` says which files come from a package that was built on the spot,
    and from which. Raises ImageError where one is no layer.
    """
    one, other = _members(before), _members(now)
    return [
        Difference(name, *_difference(name, one.get(name), other.get(name), built))
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def _members(pieces: Iterator[bytes]) -> dict[str, _Member]:
    found: dict[str, _Member] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Stream(pieces), CHUNK), mode="r|") as archive:
            for item in archive:
                hasher, head = hashlib.sha256(), b""
                body = archive.extractfile(item) if item.isreg() else None
                while body is not None and (piece := body.read(CHUNK)):
                    head = head or piece[:_PYC_HEADER]
                    hasher.update(piece)
                fields = (
                    ("mode", oct(item.mode)),
                    ("time stamp", item.mtime),
                    ("owner", (item.uid, item.gid, item.uname, item.gname)),
                    ("link", item.linkname),
                    ("kind", item.type),
                )
                found[item.name] = _Member(repr(item.type), fields, hasher.hexdigest(), head)
    except tarfile.TarError as error:
        raise ImageError(f"a layer cannot be read: {error}") from error
    return found


def _difference(
    name: str, one: _Member | None, other: _Member | None, built: Mapping[str, str]
) -> tuple[str, str]:
    compiled = f"{built[name]} was built on the spot from its source distribution" if name in built else ""
    if one is None or other is None:
        return ("only now" if one is None else "only before"), compiled
    if one.digest == other.digest:
        fields = [what for (what, a), (_, b) in zip(one.fields, other.fields, strict=True) if a != b]
        return ", ".join(fields), ""
    return "content", compiled or _reason(name, one.head, other.head)


def _reason(name: str, one: bytes, other: bytes) -> str:
    if name.endswith(".pyc"):
        flags = {head[4:8] for head in (one, other)}
        if b"\0\0\0\0" in flags:
            return "byte code with the time stamp of its source"
        return "byte code of a source that differs, or of another Python"
    if one[:2] == other[:2] == _GZIP and one[4:8] != other[4:8]:
        return "a gzip file with the time at which it was packed"
    if name.endswith(".dist-info/RECORD"):
        return "it lists the hashes of the package's other files"
    return ""


def built_files(installed: Iterable[Mapping[str, object]], pieces: Iterator[bytes]) -> dict[str, str]:
    """Which files of an environment's layer belong to packages that were built on the spot, by their RECORDs."""
    import csv
    import posixpath
    import re

    built = {str(each["name"]): str(each["name"]) for each in installed if each.get("built")}
    if not built:
        return {}
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BufferedReader(_Stream(pieces), CHUNK), mode="r|") as archive:
        for item in archive:
            folder, _, name = item.name.rpartition("/")
            if name != "RECORD" or not folder.endswith(".dist-info"):
                continue
            package = re.sub(r"[-_.]+", "-", posixpath.basename(folder).partition("-")[0]).lower()
            body = archive.extractfile(item)
            if package not in built or body is None:
                continue
            for row in csv.reader(io.StringIO(body.read().decode("utf-8"))):
                if row:
                    found[posixpath.normpath(posixpath.join(posixpath.dirname(folder), row[0]))] = package
    return found
