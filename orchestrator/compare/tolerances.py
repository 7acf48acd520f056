"""Which tolerance holds for which output or metric: what the project's commit says, and what the command line says above it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from orchestrator.canonical import Json
from orchestrator.compare.difference import Tolerance
from orchestrator.errors import CannotVerify

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Tolerances:
    """Tolerances by pattern of `KIND:NAME` or `metric:NAME`; ``rtol``, ``atol`` and ``ignore`` are the command line's.

    Of the patterns that fit, the one without wildcards holds, else the longest. A number of the command line takes the
    place of the committed one everywhere; what it ignores is ignored as well.
    """

    committed: tuple[tuple[str, Tolerance], ...] = ()
    rtol: float | None = None
    atol: float | None = None
    ignore: tuple[str, ...] = ()
    _known: dict[str, Tolerance] = field(default_factory=dict, compare=False, repr=False)

    def of(self, name: str) -> Tolerance:
        """The tolerance for an output `KIND:NAME` or a `metric:NAME`."""
        if name not in self._known:
            fitting = [
                (not _MAGIC.search(pattern), len(pattern), pattern, tolerance)
                for pattern, tolerance in self.committed
                if fnmatchcase(name, pattern)
            ]
            base = max(fitting, key=lambda each: each[:3])[3] if fitting else Tolerance()
            self._known[name] = Tolerance(
                base.rtol if self.rtol is None else self.rtol,
                base.atol if self.atol is None else self.atol,
                (*base.ignore, *self.ignore),
            )
        return self._known[name]

    def to_json(self) -> dict[str, Json]:
        """What was allowed, for the attestation: the committed ones by pattern."""
        return {
            pattern: {"rtol": each.rtol, "atol": each.atol, "ignore": [*each.ignore]}
            for pattern, each in self.committed
        }


def recorded(external: Mapping[str, Any]) -> tuple[tuple[str, Tolerance], ...]:
    """The tolerances that a record's externalParameters say; none in records from before there were any.

    Raises CannotVerify for a pattern that is no regular expression here.
    """
    found = []
    for pattern, item in external.get("tolerance", {}).items():
        try:
            tolerance = Tolerance(item["rtol"], item["atol"], tuple(item["ignore"]))
            _ = tolerance.patterns
        except re.error as error:
            raise CannotVerify(f"the record's tolerance of {pattern} has a bad pattern: {error}") from error
        found.append((pattern, tolerance))
    return tuple(found)
