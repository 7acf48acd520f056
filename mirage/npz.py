"""NumPy's `.npz`, written so that the same arrays give the same bytes. Owns the few ZIP structures it takes.

`numpy.savez` and `zipfile` do not promise that: the order is the dict's, and the header fields that mark
ZIP64 differ between Python 3.11.2 and 3.11.7. Here all members are stored, sorted, dated 1980-01-01 and
ZIP64 whatever their size. Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

_VERSION = 45  # "needed to extract": ZIP64
_UTF8 = 0x0800
_DATE = 0x0021  # 1980-01-01, the earliest that ZIP can hold
_IN_EXTRA = 0xFFFFFFFF  # the value stands in the ZIP64 extra field
_UNIX = 3 << 8
_MODE = 0o100644 << 16


class _Member:
    """The stream of one member: counts and checks what NumPy writes through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = 0
        self.crc = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.crc = zlib.crc32(data, self.crc)
        return self._stream.write(data)


def write(arrays: Mapping[str, Any], stream: BinaryIO, numpy: Any) -> None:
    """Write arrays by name into a seekable stream; raises ValueError for an array of Python objects."""
    directory = b""
    for name in sorted(arrays):
        label = f"{name}.npy".encode()
        offset = stream.tell()
        stream.write(_local_header(label, 0, 0))
        member = _Member(stream)
        numpy.lib.format.write_array(member, numpy.asanyarray(arrays[name]), allow_pickle=False)
        end = stream.tell()
        stream.seek(offset)
        stream.write(_local_header(label, member.crc, member.size))
        stream.seek(end)
        directory += _directory_entry(label, member.crc, member.size, offset)
    start, count = stream.tell(), len(arrays)
    stream.write(directory)
    end = stream.tell()
    stream.write(
        struct.pack(
            "<IQHHIIQQQQ",
            0x06064B50,
            44,
            _UNIX | _VERSION,
            _VERSION,
            0,
            0,
            count,
            count,
            len(directory),
            start,
        )
    )
    stream.write(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
    stream.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, _IN_EXTRA, _IN_EXTRA, 0))


def _local_header(label: bytes, crc: int, size: int) -> bytes:
    fixed = struct.pack("<IHHHHHIIIHH", 0x04034B50, *_shared(label, crc), len(label), 20)
    return fixed + label + struct.pack("<HHQQ", 1, 16, size, size)


def _directory_entry(label: bytes, crc: int, size: int, offset: int) -> bytes:
    fixed = struct.pack("<IH", 0x02014B50, _UNIX | _VERSION)
    fixed += struct.pack("<HHHHHIIIHH", *_shared(label, crc), len(label), 28)
    fixed += struct.pack("<HHHII", 0, 0, 0, _MODE, _IN_EXTRA)
    return fixed + label + struct.pack("<HHQQQ", 1, 24, size, size, offset)


def _shared(label: bytes, crc: int) -> tuple[int, ...]:
    flags = 0 if label.isascii() else _UTF8
    return (_VERSION, flags, 0, 0, _DATE, crc, _IN_EXTRA, _IN_EXTRA)
