"""Two contents of one name: which comparator is for it, and bytes where there is none or it cannot read them."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.compare import arrays, containers, pictures, tables, text
from orchestrator.compare.difference import Difference, Tolerance, Unreadable

Comparator = Callable[[bytes, bytes, Tolerance], "Difference | None"]

# Beyond this many bytes contents are compared as bytes: a comparator holds both in memory.
LIMIT = 1 << 30
_DEPTH = 4  # containers in containers
_BY_SUFFIX: dict[str, Comparator] = {
    ".json": text.compare_json,
    ".ipynb": text.compare_json,
    ".jsonl": text.compare_lines,
    ".ndjson": text.compare_lines,
    **dict.fromkeys(
        (".txt", ".csv", ".tsv", ".md", ".log", ".yaml", ".yml", ".toml", ".html", ".svg", ".xml"),
        text.compare_text,
    ),
    ".npy": arrays.compare_npy,
    ".safetensors": arrays.compare_safetensors,
    ".png": pictures.compare_png,
    ".parquet": tables.compare_parquet,
}


def compare(name: str, original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """The first place where two contents part, None where they mean the same (whatever their bytes are)."""
    return _compare(name, original, again, tolerance, 0)


def _compare(name: str, original: bytes, again: bytes, tolerance: Tolerance, depth: int) -> Difference | None:
    if original == again:
        return None

    def inner(inside: str, one: bytes, two: bytes, given: Tolerance) -> Difference | None:
        return _compare(inside, one, two, given, depth + 1)

    lower = name.lower()
    comparator = _BY_SUFFIX.get("." + lower.rpartition(".")[2])
    try:
        if comparator is not None:
            return comparator(original, again, tolerance)
        if depth < _DEPTH and original[:4] == again[:4] == b"PK\x03\x04":
            return containers.compare_zip(original, again, tolerance, inner)
        if depth < _DEPTH and original[:2] == again[:2] == b"\x1f\x8b":
            return containers.compare_gzip(lower.removesuffix(".gz"), original, again, tolerance, inner)
    except Unreadable:
        pass  # it is not what its name says: then its bytes are all there is
    return by_bytes(original, again)


def by_bytes(original: bytes, again: bytes) -> Difference | None:
    """The first byte that differs."""
    if original == again:
        return None
    size = min(len(original), len(again))
    low, high = 0, size  # by halves: comparing slices is quicker than looking at each byte
    while low < high:
        middle = (low + high) // 2
        if original[low : middle + 1] == again[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    if low == size:
        return Difference("", f"{len(original)} bytes", f"{len(again)} bytes")
    return Difference(f"byte {low}", f"0x{original[low]:02x}", f"0x{again[low]:02x}")
