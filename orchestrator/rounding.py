"""What rounds to a number at the digits that it was written with: `0.89` takes 0.885 up to, but not, 0.895.

Exact: decimal digits are compared as fractions, not as the doubles that come near them.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import inf, isfinite

_DIGITS = re.compile(r"[-+]?[0-9]*(?:\.(?P<fraction>[0-9]*))?(?:[eE](?P<exponent>[-+]?[0-9]+))?")


def rounds_to(found: int | float, text: str, meaning: int | float) -> bool:
    """Whether ``found`` is ``meaning`` at the digits of ``text``; halves round away from zero."""
    if not isfinite(found):
        return False
    half = _half(text)
    target, exact = Fraction(str(meaning)), Fraction(str(found))
    if target < 0:
        target, exact = -target, -exact
    return target - half <= exact < target + half if target else -half < exact < half


def bounds(text: str, meaning: int | float) -> tuple[float, float]:
    """Two numbers that hold between them whatever rounds to it, each within a double's last digit."""
    target, half = Fraction(str(meaning)), _half(text)
    return _as_float(target - half), _as_float(target + half)


def _half(text: str) -> Fraction:
    """Half of the last digit of a number's text."""
    digits = _DIGITS.fullmatch(text)
    exponent = -len(digits["fraction"] or "") + int((digits["exponent"] or "0")[:6]) if digits else 0
    return Fraction(10) ** max(-400, min(exponent, 400)) / 2


def _as_float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return inf if exact > 0 else -inf
