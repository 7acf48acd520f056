"""Small records for the tests of the log: nothing but a place in it."""

from __future__ import annotations

from orchestrator import canonical
from orchestrator.trust.chain import Link


def statement(run: str, link: Link) -> bytes:
    """A Statement as far as the log looks at it."""
    return canonical.encode(
        {"_type": "x", "predicate": {"runDetails": {"run": run, "mirage_chain": link.to_json()}}}
    )
