"""Builders that nobody comes back for: the labels of a builder's container, and whether its process still lives."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping

from orchestrator.image.library import Library

BUILDER_LABEL = "flow.mirage.builder"  # its value: the hex digits of the environment's key
OWNER_LABEL = "flow.mirage.builder-owner"  # the cache whose lock its process holds


def is_abandoned(library: Library, labels: Mapping[str, str]) -> bool:
    """Whether a builder's labels say that it is of this cache, and nobody holds the lock of its key any more."""
    if labels.get(OWNER_LABEL) != library.cache_id:
        return False
    try:
        with library.lock_path(f"env-{labels.get(BUILDER_LABEL, '')}").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
