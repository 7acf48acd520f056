"""What every backend agrees on: the grammar of keys, and the format that `store.json` names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from orchestrator import canonical
from orchestrator.errors import StoreError

FORMAT = "mirage-store/1"
_KEY_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def is_key_part(part: str) -> bool:
    """Whether this may stand between two slashes of a key."""
    return bool(part) and part[0] != "." and len(part) <= 255 and _KEY_PART.issuperset(part)


def accumulated(key: str) -> Iterator[str]:
    """A key's beginnings, part by part: `a`, `a/b`, `a/b/c`."""
    return accumulate(key.split("/"), lambda above, part: f"{above}/{part}")


def check_key(key: str) -> None:
    """Raise StoreError for what is not an object's key, whoever says it."""
    if not all(map(is_key_part, key.split("/"))):
        raise StoreError(f"not a key: {key[:200]!r}")


def check_format(described: bytes | None, where: str, place: str) -> None:
    """Raises StoreError unless `store.json` says that a store has our format; ``place`` is what else to name."""
    try:
        content = canonical.decode(described or b"")
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(
            f"{where} holds a store of another format (expected {FORMAT})",
            hint=f"use the Mirage version that made it, or name another {place} under `store:`",
        )
