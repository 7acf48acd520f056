"""What every backend agrees on: the grammar of keys, and the format that `store.json` names."""

from __future__ import annotations

from orchestrator.errors import StoreError

FORMAT = "mirage-store/1"
_KEY_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def is_key_part(part: str) -> bool:
    """Whether this may stand between two slashes of a key."""
    return bool(part) and part[0] != "." and len(part) <= 255 and _KEY_PART.issuperset(part)


def check_key(key: str) -> None:
    """Raise StoreError for what is not an object's key, whoever says it."""
    if not all(map(is_key_part, key.split("/"))):
        raise StoreError(f"not a key: {key[:200]!r}")
