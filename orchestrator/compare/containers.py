"""Containers by content: zip and what is zip inside (npz, docx, wheels, torch's files), and gzip.

Time stamps, order and compression of members do not count; each member is compared by its own kind.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable

from orchestrator.compare.difference import Difference, Seen, Tolerance, Unreadable

Inner = Callable[[str, bytes, bytes, Tolerance], "Difference | None"]
_TOTAL = 8 << 30  # bytes of all members of both, unpacked
_LIMIT = 1 << 30  # bytes of one member: what is compared is held in memory


def compare_zip(original: bytes, again: bytes, tolerance: Tolerance, inner: Inner) -> Difference | None:
    """Two zip archives, member by member in the original's order."""
    try:
        with zipfile.ZipFile(io.BytesIO(original)) as old, zipfile.ZipFile(io.BytesIO(again)) as new:
            there = [name for name in old.namelist() if not name.endswith("/")]
            before, known = set(there), set(new.namelist())
            added = [name for name in new.namelist() if name not in before and not name.endswith("/")]
            seen, left = Seen(), _TOTAL
            for name in there:
                if name not in known:
                    seen.add(Difference(name, "a member", "nothing"))
                    continue
                one, two = _member(old, name), _member(new, name)
                left -= len(one) + len(two)
                if left < 0:  # members may lie upon each other: a small archive of terabytes
                    raise Unreadable(f"it holds more than {_TOTAL >> 30} GiB")
                found = None if one == two else inner(name, one, two, tolerance)
                seen.add(found.at(name) if found is not None else None)
                if seen.beyond is not None:
                    break
            for name in added:
                seen.add(Difference(name, "nothing", "a member"))
            return seen.first
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"not a zip archive: {error}") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as source:
        data = source.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise Unreadable(f"{name} is larger than {_LIMIT >> 20} MiB")
    return data


def compare_gzip(
    name: str, original: bytes, again: bytes, tolerance: Tolerance, inner: Inner
) -> Difference | None:
    """Two gzip files, by what they hold."""
    old, new = _unpacked(original), _unpacked(again)
    return None if old == new else inner(name, old, new, tolerance)


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as source:
            found = source.read(_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"not a gzip file: {error}") from error
    if len(found) > _LIMIT:
        raise Unreadable(f"it is larger than {_LIMIT >> 20} MiB")
    return found
