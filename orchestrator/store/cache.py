"""Where this machine keeps what it built and fetched."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The machine-wide cache: $MIRAGE_CACHE, else mirage/ in the user's cache folder (XDG base directories)."""
    chosen = os.environ.get("MIRAGE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirage"
