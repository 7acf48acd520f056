"""PNG by pixels: two files with the same picture may differ in compression, filters, time stamps and comments.

Format: the PNG specification (W3C, third edition), sections 7, 9 and 11.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from orchestrator.compare.difference import Difference, Tolerance, Unreadable

_LIMIT = 256 << 20  # bytes of pixels
_SLOW = 24 << 20  # bytes of pixels whose filters are undone here, at a microsecond each
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# What changes how the pixels look.
_TELLING = (b"PLTE", b"tRNS")


@dataclass(frozen=True)
class _Picture:
    width: int
    height: int
    depth: int
    colour: int
    interlaced: int
    palette: tuple[bytes, ...]
    filtered: bytes

    @property
    def head(self) -> tuple[int, int, int, int, int]:
        return self.width, self.height, self.depth, self.colour, self.interlaced

    @property
    def line(self) -> int:
        """Bytes in a line of pixels."""
        return (self.width * self.depth * _CHANNELS[self.colour] + 7) // 8

    @property
    def step(self) -> int:
        """Bytes from a pixel to the next, at least one: what filters look back by."""
        return max(1, self.depth * _CHANNELS[self.colour] // 8)


def compare_png(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two pictures; the place is the first pixel that differs."""
    old, new = _parse(original), _parse(again)
    if old.head[:4] != new.head[:4]:
        return Difference("", _what(old), _what(new))
    if old.head == new.head and old.palette == new.palette and old.filtered == new.filtered:
        return None
    if old.interlaced or new.interlaced or old.palette != new.palette:
        return Difference("", "", "pixels that differ")
    if len(old.filtered) > _SLOW:
        raise Unreadable(f"undoing the filters of {len(old.filtered) >> 20} MiB of pixels would take minutes")
    return _pixels(old, _lines(old), _lines(new), tolerance)


def _what(picture: _Picture) -> str:
    return f"{picture.width}x{picture.height} pixels, {_CHANNELS[picture.colour]} channels of {picture.depth} bits"


def _parse(data: bytes) -> _Picture:
    try:
        if data[:8] != b"\x89PNG\r\n\x1a\n":
            raise ValueError("no signature")
        at, head, palette, packed = 8, b"", [], []
        while at < len(data):
            size, kind = struct.unpack_from(">I4s", data, at)
            body = data[at + 8 : at + 8 + size]
            at += 12 + size
            if kind == b"IHDR":
                head = body
            elif kind == b"IDAT":
                packed.append(body)
            elif kind in _TELLING:
                palette.append(kind + body)
            elif kind == b"IEND":
                break
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head)
        if width * height * _CHANNELS[colour] * depth // 8 > _LIMIT:
            raise ValueError("too large")
        engine = zlib.decompressobj()
        filtered = engine.decompress(b"".join(packed), 2 * _LIMIT)
        found = _Picture(width, height, depth, colour, interlaced, tuple(palette), filtered)
        if not interlaced and len(filtered) != height * (found.line + 1):
            raise ValueError("pixels are missing")
        return found
    except (ValueError, KeyError, struct.error, zlib.error) as error:
        raise Unreadable(f"not a PNG: {error}") from error


def _lines(picture: _Picture) -> list[bytes]:
    """The lines of pixels without their filters (section 9.2)."""
    size, step = picture.line, picture.step
    above, found = bytes(size), []
    for start in range(0, len(picture.filtered), size + 1):
        kind = picture.filtered[start]
        line = bytearray(picture.filtered[start + 1 : start + 1 + size])
        if kind == 1:
            for at in range(step, size):
                line[at] = (line[at] + line[at - step]) & 255
        elif kind == 2:
            line = bytearray((one + two) & 255 for one, two in zip(line, above, strict=True))
        elif kind == 3:
            for at in range(size):
                left = line[at - step] if at >= step else 0
                line[at] = (line[at] + (left + above[at]) // 2) & 255
        elif kind == 4:
            for at in range(size):
                left, corner = (line[at - step], above[at - step]) if at >= step else (0, 0)
                line[at] = (line[at] + _paeth(left, above[at], corner)) & 255
        elif kind != 0:
            raise Unreadable(f"not a PNG: filter {kind}")
        above = bytes(line)
        found.append(above)
    return found


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    distances = (abs(guess - left), abs(guess - above), abs(guess - corner))
    nearest = min(distances)
    return left if distances[0] == nearest else above if distances[1] == nearest else corner


def _pixels(picture: _Picture, old: list[bytes], new: list[bytes], tolerance: Tolerance) -> Difference | None:
    worst, count, first, beyond = 0, 0, None, None
    bits = picture.depth * _CHANNELS[picture.colour]
    for row, (one, two) in enumerate(zip(old, new, strict=True)):
        if one == two:
            continue
        for at, (before, after) in enumerate(zip(one, two, strict=True)):
            if before != after:
                count += 1
                worst = max(worst, abs(before - after))
                told = (at * 8 // bits, row, before, after)
                first = first or told
                if beyond is None and (picture.depth != 8 or not tolerance.close(before, after)):
                    beyond = told
    if first is None:
        return None
    column, row, before, after = beyond or first
    many = f" ({count} bytes of pixels differ, by at most {worst})"
    return Difference(f"pixel ({column}, {row})", str(before), f"{after}{many}", within=beyond is None)
