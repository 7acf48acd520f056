"""Which records and marks a store has, month by month, and which months cannot have changed since they were looked at.

A folder's signature changes with every name that is made or removed in it (POSIX: mtime and ctime of a directory).
Whether a signature that was seen before may be trusted is the index's part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.errors import StoreError
from orchestrator.store.folder import FolderStore

if TYPE_CHECKING:
    from orchestrator.ports import Store

TOPS = ("runs", "marks")
_MONTH = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")


class Listing(Protocol):
    """The months of a store, as `runs/2026-11` and `marks/2026-11`."""

    def months(self) -> dict[str, str | None]:
        """Every month, with what its folder looked like before ``names`` is asked; None where nothing can tell."""

    def names(self, month: str) -> list[str]:
        """The names in a month: run ids, which may not have their record yet, or marks. In no order."""


class FolderListing:
    """A store in a folder: one listing of a folder for each month that changed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def months(self) -> dict[str, str | None]:
        """The months' folders with their signatures."""
        found: dict[str, str | None] = {}
        for top in TOPS:
            for name in _names(self._root / top):
                if _MONTH.fullmatch(name):
                    signature = _signature(self._root / top / name)
                    if signature is not None:
                        found[f"{top}/{name}"] = signature
        return found

    def names(self, month: str) -> list[str]:
        """The names in a month's folder."""
        return [name for name in _names(self._root / month) if name[0] != "."]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error.strerror}") from error


def _signature(folder: Path) -> str | None:
    """What changes when a name is made or removed in a folder; None where it is no folder."""
    try:
        # Opening asks an NFS server anew (close-to-open consistency, nfs(5)); a stat may be answered from memory.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return f"{found.st_dev} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_nlink} {found.st_size}"


class KeyListing:
    """Any other store: one listing of all keys, once."""

    def __init__(self, store: Store) -> None:
        self._months: dict[str, list[str]] = {}
        for top in TOPS:
            for key in store.keys(f"{top}/"):
                parts = key.split("/")
                whole = parts[3:] == ["record.json"] if top == "runs" else len(parts) == 3
                if whole and _MONTH.fullmatch(parts[1]):
                    self._months.setdefault(f"{top}/{parts[1]}", []).append(parts[2])

    def months(self) -> dict[str, str | None]:
        """The months, without signatures."""
        return dict.fromkeys(self._months)

    def names(self, month: str) -> list[str]:
        """The names that the one listing had."""
        return self._months.get(month, [])


def listing_of(store: Store) -> Listing:
    """The listing that suits a store."""
    return FolderListing(Path(store.location)) if isinstance(store, FolderStore) else KeyListing(store)


def run_ids(store: Store, prefix: str) -> Iterator[str]:
    """The ids that begin with ``prefix``, newest first; without looking whether they have their record."""
    listing = listing_of(store)
    for month in sorted(listing.months(), reverse=True):
        top, _, name = month.partition("/")
        digits = name.replace("-", "")
        if top == "runs" and (digits.startswith(prefix[:6]) or prefix.startswith(digits)):
            yield from sorted(
                (each for each in listing.names(month) if each.startswith(prefix)), reverse=True
            )
