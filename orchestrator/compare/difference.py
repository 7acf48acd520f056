"""What a comparison says: the words of a verdict, the tolerance, and the first place where two contents part.

Compares nothing itself but single numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

IDENTICAL = "IDENTICAL"
WITHIN = "WITHIN-TOLERANCE"
DIFFERS = "DIFFERS"
MISSING = "MISSING"
NEW = "NEW"
# What passes.
ALIKE = (IDENTICAL, WITHIN)

_SHOWN = 60


class Unreadable(Exception):
    """A content is not what its name says; it is then compared by bytes."""


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart, ``|a - b| <= atol + rtol * |a|``, and what is not looked at.

    ``ignore`` are regular expressions: what they match is taken out of text before it is compared, and values of
    JSON whose dotted path one of them matches as a whole are passed over.
    """

    rtol: float = 0.0
    atol: float = 0.0
    ignore: tuple[str, ...] = ()

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The regular expressions, compiled."""
        return tuple(re.compile(text) for text in self.ignore)

    @property
    def numeric(self) -> bool:
        """Whether numbers may differ at all."""
        return self.rtol > 0 or self.atol > 0

    def close(self, original: float, again: float) -> bool:
        """Whether two numbers are near enough; NaN is near NaN, an infinity near itself."""
        if original == again or (math.isnan(original) and math.isnan(again)):
            return True
        if not (math.isfinite(original) and math.isfinite(again)):
            return False
        return abs(original - again) <= self.atol + self.rtol * abs(original)

    def stripped(self, text: str) -> str:
        """Text without what is to be ignored."""
        for pattern in self.patterns:
            text = pattern.sub("", text)
        return text

    def passes_over(self, path: str) -> bool:
        """Whether a value of JSON is not looked at."""
        return any(pattern.fullmatch(path) for pattern in self.patterns)


@dataclass(frozen=True)
class Difference:
    """The first place where two contents part; ``within``: they do so by less than the tolerance."""

    place: str
    original: str
    again: str
    within: bool = False

    def __str__(self) -> str:
        values = f"{self.original} became {self.again}" if self.original or self.again else ""
        return ": ".join(part for part in (self.place, values) if part)

    def at(self, place: str) -> Difference:
        """The same, found further inside of ``place``."""
        return Difference(
            f"{place}: {self.place}" if self.place else place, self.original, self.again, self.within
        )


class Seen:
    """Collects differences of one content: the first beyond the tolerance, else the first within it."""

    def __init__(self) -> None:
        self.beyond: Difference | None = None
        self._within: Difference | None = None

    def add(self, found: Difference | None) -> None:
        """Take a difference, or that there is none."""
        if found is None:
            return
        if found.within:
            self._within = self._within or found
        else:
            self.beyond = self.beyond or found

    @property
    def first(self) -> Difference | None:
        """The one to tell."""
        return self.beyond or self._within


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def numbers(place: str, original: float, again: float, tolerance: Tolerance) -> Difference | None:
    """The difference of two numbers, None where they are the same number."""
    if original == again or (math.isnan(original) and math.isnan(again)):
        return None
    return Difference(place, repr(original), repr(again), tolerance.close(original, again))
