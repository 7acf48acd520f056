"""Arrays: NumPy's npy and safetensors, read without NumPy; the first element that differs, and by how much at most.

Formats: numpy/lib/format.py (NEP 1), and safetensors' README ("Format").
"""

from __future__ import annotations

import ast
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.compare.difference import Difference, Seen, Tolerance, Unreadable

_PIECE = 1 << 16
_HEADER_LIMIT = 100 << 20
_NPY_HEADER = 1 << 16  # as bytes; NumPy itself reads no more than 10,000 (numpy/lib/format.py)
# Codes of the struct module by NumPy's kind and size; complex numbers are pairs.
_CODES = {
    **{f"f{size}": code for size, code in ((2, "e"), (4, "f"), (8, "d"))},
    **{f"i{size}": code for size, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{size}": code for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    "c8": "ff",
    "c16": "dd",
    "b1": "?",
}
_TENSORS = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf", "BOOL": "b1"},
    **{f"{kind}{8 * size}": f"{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
}


@dataclass(frozen=True)
class Array:
    """An array as bytes: ``kind`` as `f4`, ``order`` `<` or `>`, in the order of C, or of Fortran."""

    kind: str
    order: str
    fortran: bool
    shape: tuple[int, ...]
    data: memoryview

    @property
    def what(self) -> str:
        """Its type and shape for messages."""
        return f"{self.kind}[{'x'.join(map(str, self.shape))}]"


def compare_npy(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two arrays in NumPy's own format."""
    return compare_arrays(parse_npy(original), parse_npy(again), tolerance)


def parse_npy(data: bytes) -> Array:
    """Read an npy file's header. Raises Unreadable for what it is not, and for Python objects."""
    try:
        if data[:6] != b"\x93NUMPY" or data[6] not in (1, 2, 3):
            raise ValueError("no npy header")
        size, start = (
            (struct.unpack_from("<H", data, 8)[0], 10)
            if data[6] == 1
            else (struct.unpack_from("<I", data, 8)[0], 12)
        )
        if size > _NPY_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = ast.literal_eval(data[start : start + size].decode("utf-8" if data[6] == 3 else "latin1"))
        descr, shape = header["descr"], tuple(int(side) for side in header["shape"])
        if not isinstance(descr, str) or "O" in descr:
            raise ValueError(f"elements of type {descr!r}")
        return _checked(
            Array(
                descr.lstrip("<>|="),
                ">" if descr.startswith(">") else "<",
                bool(header["fortran_order"]),
                shape,
                memoryview(data)[start + size :],
            )
        )
    except (ValueError, KeyError, TypeError, IndexError, SyntaxError, struct.error, MemoryError) as error:
        raise Unreadable(f"not an npy file: {error}") from error


def _checked(array: Array) -> Array:
    count = 1
    for side in array.shape:
        if side < 0:
            raise ValueError("a negative size")
        count *= side
    code = _CODES.get(array.kind, "H" if array.kind == "bf" else "")
    if code and count * struct.calcsize("=" + code) != len(array.data):
        raise ValueError(f"{len(array.data)} bytes for {array.what}")
    return array


def compare_arrays(original: Array, again: Array, tolerance: Tolerance) -> Difference | None:
    """Two arrays; the place is the first element that differs beyond the tolerance, else the first that differs."""
    if (original.kind, original.shape) != (again.kind, again.shape):
        return Difference("", original.what, again.what)
    if (original.order, original.fortran) == (again.order, again.fortran):
        if original.data == again.data:
            return None
    elif original.fortran != again.fortran and len(original.shape) > 1:
        return Difference("", "rows first" if again.fortran else "columns first", "the other way")
    return _elements(original, again, tolerance)


def _elements(original: Array, again: Array, tolerance: Tolerance) -> Difference | None:
    code = _CODES.get(original.kind, "H" if original.kind == "bf" else "")
    if not code:
        return Difference("", "", f"elements of type {original.kind} that differ")
    worst, count, first, first_beyond = 0.0, 0, None, None
    width = struct.calcsize("=" + code)
    step = _PIECE // width * width
    for start in range(0, len(original.data), step):
        one, two = original.data[start : start + step], again.data[start : start + step]
        if original.order == again.order and one == two:
            continue
        pairs = zip(_numbers(original, one, code), _numbers(again, two, code), strict=True)
        for at, (old, new) in enumerate(pairs, start // width * len(code)):
            if old == new or (old != old and new != new):
                continue
            count += 1
            worst = max(worst, abs(float(old) - float(new)))
            first = first or (at, old, new)
            if first_beyond is None and not tolerance.close(old, new):
                first_beyond = (at, old, new)
    told = first_beyond or first
    if told is None:  # zeros of either sign, or NaNs of other bits
        return None
    at, old, new = told
    place = f"[{', '.join(map(str, _index(at // len(code), original)))}]" if original.shape else ""
    many = f" ({count} elements differ, by at most {worst:.3g})"
    return Difference(place, repr(old), repr(new) + many, within=first_beyond is None)


def _numbers(array: Array, piece: memoryview, code: str) -> Sequence[Any]:
    if array.kind == "bf":  # bfloat16: the upper half of a float32
        halves = struct.unpack(f"{array.order}{len(piece) // 2}H", piece)
        return struct.unpack(f"={len(halves)}f", struct.pack(f"={len(halves)}I", *(h << 16 for h in halves)))
    count = len(piece) // struct.calcsize("=" + code[0])
    return struct.unpack(f"{array.order}{count}{code[0]}", piece)


def _index(at: int, array: Array) -> list[int]:
    found: list[int] = []
    for side in array.shape if array.fortran else reversed(array.shape):
        found.append(at % side)
        at //= side
    return found if array.fortran else found[::-1]


def compare_safetensors(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two files of tensors, tensor by tensor in the original's order."""
    old, new = dict(_tensors(original)), dict(_tensors(again))
    seen = Seen()
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            seen.add(Difference(name, old[name].what, "nothing") if name in old else _added(name, new[name]))
            continue
        found = compare_arrays(old[name], new[name], tolerance)
        seen.add(found.at(name) if found is not None else None)
    return seen.first


def _added(name: str, array: Array) -> Difference:
    return Difference(name, "nothing", array.what)


def _tensors(data: bytes) -> Iterator[tuple[str, Array]]:
    try:
        size = struct.unpack_from("<Q", data)[0]
        if size > min(_HEADER_LIMIT, len(data) - 8):
            raise ValueError(f"a header of {size} bytes")
        body, taken = memoryview(data)[8 + size :], 0
        for name, item in json.loads(data[8 : 8 + size]).items():
            if name == "__metadata__":
                continue
            start, end = item["data_offsets"]
            kind = _TENSORS.get(item["dtype"], item["dtype"])
            taken += len(body[start:end])
            if taken > len(body):
                raise ValueError("tensors that lie upon each other")  # which the format forbids
            yield name, _checked(Array(kind, "<", False, tuple(item["shape"]), body[start:end]))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise Unreadable(f"not a safetensors file: {error}") from error
