"""The layers in an engine's saved image, taken into the library uncompressed, by their diff ids.

Two forms are in use: engines up to 24 write `<id>/layer.tar`, later ones an OCI layout whose blobs may be
compressed. Neither names a layer's diff id where its bytes are, so every file is hashed and compared.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

from orchestrator.digest import CHUNK, Digest, of_hasher
from orchestrator.errors import ImageError
from orchestrator.image.library import Library

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def take(
    saved: Iterable[bytes], diff_ids: tuple[Digest, ...], library: Library, name: str
) -> dict[Digest, int]:
    """Keep the layers with these diff ids; gives their sizes.

    Raises ImageError where one is missing, damaged, or compressed in a way that cannot be undone here.
    """
    sizes: dict[Digest, int] = {}
    zstd: list[str] = []
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Pieces(iter(saved)), CHUNK), mode="r|") as archive:
            for member in archive:
                body = archive.extractfile(member) if member.isreg() else None
                if body is None:
                    continue
                head = body.read(len(_ZSTD))
                if head == _ZSTD:
                    zstd.append(member.name)
                    continue
                _take_one(head, body, diff_ids, library, sizes)
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise ImageError(
            f"what the engine saved of {name} is damaged: {error}",
            hint="remove it from the engine, and pull again",
        ) from error
    missing = [digest for digest in diff_ids if digest not in sizes]
    if missing and zstd:
        raise ImageError(
            f"{name} has layers compressed with zstd, which Mirage does not read ({', '.join(missing)})",
            hint="push that image with gzip (`--output type=image,compression=gzip,force-compression=true`), "
            "or name it in a Dockerfile's FROM: the engine itself then unpacks it",
        )
    if missing:
        raise ImageError(
            f"the engine's save of {name} lacks the layers {', '.join(missing)}", hint="pull it again"
        )
    return sizes


def _take_one(
    head: bytes, body: IO[bytes], diff_ids: tuple[Digest, ...], library: Library, sizes: dict[Digest, int]
) -> None:
    stream = io.BufferedReader(_Pieces(_rest(head, body)), CHUNK)
    plain = gzip.GzipFile(fileobj=stream) if head.startswith(_GZIP) else stream
    with library.writer() as writer:
        hasher = hashlib.sha256()
        while piece := plain.read(CHUNK):
            hasher.update(piece)
            writer.write(piece)
        if of_hasher(hasher) in diff_ids:  # else it is a config, a manifest, or another image's layer
            digest, size = writer.commit()
            sizes[digest] = size


def _rest(head: bytes, body: IO[bytes]) -> Iterator[bytes]:
    yield head
    while piece := body.read(CHUNK):
        yield piece


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file to read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
