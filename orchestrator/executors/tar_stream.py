"""Files to and from a container as the tar that an engine's archive calls carry; no engine is spoken to here."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator

from orchestrator.digest import CHUNK
from orchestrator.errors import EngineError


def pack(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """A tar of files (name, bytes, mode)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data, mode in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def first_file(pieces: Iterable[bytes], path: str) -> Iterator[bytes]:
    """The bytes of a tar's first member. Raises EngineError where it is no regular file, and tarfile's errors."""
    with tarfile.open(fileobj=_Readable(pieces), mode="r|") as tar:
        for member in tar:
            body = tar.extractfile(member) if member.isreg() else None
            if body is None:
                raise EngineError(f"{path} in the container is not a regular file")
            while piece := body.read(CHUNK):
                yield piece
            return


class _Readable(io.RawIOBase):
    """A stream of pieces as a file that tarfile can read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        size = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:size], self._rest[size:]
        return given
