"""A finding of `mirage doctor`: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """One check: `ok`, `warn` or `fail`, with the exit code that a failure means."""

    check: str
    state: str
    text: str
    hint: str | None = None
    exit_code: int = 0
