"""JSON and text: the first value, or the first line, that differs."""

from __future__ import annotations

import json
import re
from typing import Any

from orchestrator.compare.difference import Difference, Seen, Tolerance, Unreadable, numbers, shown

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DEPTH = 200


def compare_json(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two JSON documents, value by value, whatever the order of their keys."""
    return values(_document(original), _document(again), tolerance)


def compare_lines(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two files with one JSON document in each line."""
    return values(_lines(original), _lines(again), tolerance)


def values(original: Any, again: Any, tolerance: Tolerance, path: str = "") -> Difference | None:
    """Two values of JSON; the place is a dotted path as in a config."""
    seen = Seen()
    _walk(original, again, tolerance, path, seen, 0)
    return seen.first


def _walk(original: Any, again: Any, tolerance: Tolerance, path: str, seen: Seen, depth: int) -> None:
    if seen.beyond is not None or (path and tolerance.passes_over(path)):
        return
    if depth > _DEPTH:
        raise Unreadable(f"nested more than {_DEPTH} deep")
    if isinstance(original, dict) and isinstance(again, dict):
        for key in [*original, *(key for key in again if key not in original)]:
            here = f"{path}.{key}" if path else str(key)
            if tolerance.passes_over(here):
                continue
            if key not in again:
                seen.add(Difference(here, shown(original[key]), "nothing"))
            elif key not in original:
                seen.add(Difference(here, "nothing", shown(again[key])))
            else:
                _walk(original[key], again[key], tolerance, here, seen, depth + 1)
    elif isinstance(original, list) and isinstance(again, list):
        for at, (old, new) in enumerate(zip(original, again, strict=False)):
            _walk(old, new, tolerance, f"{path}.{at}" if path else str(at), seen, depth + 1)
        if len(original) != len(again):
            seen.add(Difference(path, f"{len(original)} elements", f"{len(again)}"))
    elif _is_number(original) and _is_number(again):
        seen.add(numbers(path, original, again, tolerance))
    elif isinstance(original, str) and isinstance(again, str):
        if tolerance.stripped(original) != tolerance.stripped(again):
            seen.add(Difference(path, shown(original), shown(again)))
    elif type(original) is not type(again) or original != again:
        seen.add(Difference(path, shown(original), shown(again)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _document(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _lines(data: bytes) -> list[Any]:
    return [_document(line) for line in data.splitlines() if line.strip()]


def compare_text(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two texts, line by line; with a tolerance, the numbers in them may differ by it."""
    try:
        old, new = original.decode().splitlines(), again.decode().splitlines()
    except UnicodeDecodeError as error:
        raise Unreadable(str(error)) from error
    seen = Seen()
    for number, (first, second) in enumerate(zip(old, new, strict=False), 1):
        seen.add(_line(f"line {number}", first, second, tolerance))
        if seen.beyond is not None:
            break
    else:
        if len(old) != len(new):
            seen.add(Difference("", f"{len(old)} lines", f"{len(new)}"))
    return seen.first


def _line(place: str, original: str, again: str, tolerance: Tolerance) -> Difference | None:
    old, new = tolerance.stripped(original), tolerance.stripped(again)
    if old == new:
        return None
    found = Difference(place, shown(original), shown(again))
    if not tolerance.numeric or _NUMBER.split(old) != _NUMBER.split(new):
        return found
    pairs = zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
    near = all(tolerance.close(float(first), float(second)) for first, second in pairs)
    return Difference(place, found.original, found.again, within=near)
