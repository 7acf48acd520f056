"""Run ids as integers of the same order, so that the newest runs are the largest row numbers of the index.

Reversible: the index keeps no id beside its number. Mixed radix, since every valid moment must fit into SQLite's 63
bits (sqlite.org/datatype3.html): year, month, day, hour, minute, second, and the 24 random bits.
"""

from __future__ import annotations

from orchestrator.errors import ConfigError
from orchestrator.reference import RunId, parse_run_id

_RADIX = (13, 32, 25, 61, 62)
_PLACES = ((4, 6), (6, 8), (9, 11), (11, 13), (13, 15))


def number_of(run_id: RunId) -> int:
    """The id's number. Raises ConfigError for an id that names no moment of a calendar."""
    number = int(run_id[:4])
    for radix, (start, end) in zip(_RADIX, _PLACES, strict=True):
        part = int(run_id[start:end])
        if part >= radix:
            raise ConfigError(f"{run_id} names no moment: it is not an id that Mirage gave")
        number = number * radix + part
    return number << 24 | int(run_id[16:], 16)


def id_of(number: int) -> RunId:
    """The id that has this number."""
    moment, random = number >> 24, number & 0xFFFFFF
    parts = []
    for radix in reversed(_RADIX):
        moment, part = divmod(moment, radix)
        parts.append(f"{part:02}")
    second, minute, hour, day, month = parts
    return RunId(f"{moment:04}{month}{day}-{hour}{minute}{second}-{random:06x}")


def month_of(run_id: RunId) -> str:
    """The month's folder that a run's record, and what is said of it, lie in."""
    return f"{run_id[:4]}-{run_id[4:6]}"


def month_range(month: str) -> tuple[int, int]:
    """The numbers of a month's runs: from the first up to, but not, the second."""
    first = number_of(parse_run_id(f"{month[:4]}{month[5:7]}00-000000-000000"))
    width = 1 << 24
    for radix in _RADIX[1:]:
        width *= radix
    return first, first + width
