"""What was built before: which key led to which digest, and the layers themselves, on this machine and banked.

The machine's cache answers first; the project's store (the bank) is what other machines restore from.
A key that leads to a second digest is drift: both stay, and the caller is told.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import CHUNK, Digest, hex_of, of_hasher, parse_digest
from orchestrator.errors import ImageError
from orchestrator.ports import BlobWriter, Store
from orchestrator.store.folder import FolderStore


def cache_folder() -> Path:
    """The machine-wide cache: $MIRAGE_CACHE, else mirage/ in the user's cache folder (XDG base directories)."""
    chosen = os.environ.get("MIRAGE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirage"


class Library:
    """Layers and key ledgers in the machine's cache, with the project's store behind it."""

    def __init__(self, cache: FolderStore, bank: Store) -> None:
        self._cache = cache
        self._bank = bank

    def find(self, kind: str, key: Digest) -> dict[str, Json] | None:
        """What a key led to (the oldest, where there is drift), or None. Raises ImageError if unreadable."""
        found = self.ledger(kind, key)
        return found[0] if found else None

    def ledger(self, kind: str, key: Digest) -> list[dict[str, Json]]:
        """Everything that a key ever led to, oldest first."""
        entries: dict[str, dict[str, Json]] = {}
        for place in (self._cache, self._bank):
            for name in place.keys(f"keys/{kind}/{hex_of(key)}/results/"):
                data = place.read(name)
                try:
                    entry = canonical.decode(data or b"")
                except ValueError as error:
                    raise ImageError(
                        f"{name} in {place.location} is not JSON", hint="remove that file"
                    ) from error
                if isinstance(entry, dict):
                    entries.setdefault(name, entry)
            if entries:
                break
        return sorted(entries.values(), key=lambda entry: str(entry.get("created")))

    def keep(self, kind: str, key: Digest, manifest: bytes, result: dict[str, Json]) -> bool:
        """Write down that ``key`` (made of ``manifest``) led to ``result["digest"]``; True where that is drift."""
        before = {str(entry["digest"]) for entry in self.ledger(kind, key)}
        digest = parse_digest(result["digest"])
        top = f"keys/{kind}/{hex_of(key)}"
        for place in (self._cache, self._bank):
            place.create(f"{top}/manifest.json", manifest)
            place.create(f"{top}/results/{hex_of(digest)}.json", canonical.encode(result))
        return bool(before - {str(digest)})

    def put(self, data: bytes) -> Digest:
        """Keep small bytes in both places."""
        digest = self._cache.put(data)
        self.bank(digest)
        return digest

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """Write a layer into the machine's cache."""
        return self._cache.writer()

    def has(self, digest: Digest) -> bool:
        """Whether a layer's bytes can be had without building."""
        return self._cache.has(digest) or self._bank.has(digest)

    def read(self, digest: Digest) -> Iterator[bytes]:
        """A layer's bytes, verified at the end. Raises ImageError where they are not what the digest says."""
        place: Store = self._cache if self._cache.has(digest) else self._bank
        hasher = hashlib.sha256()
        with place.open(digest) as source:
            while piece := source.read(CHUNK):
                hasher.update(piece)
                yield piece
        if of_hasher(hasher) != digest:
            raise ImageError(
                f"the layer {digest} in {place.location} is damaged",
                hint="remove that blob; it is then built again, or restored from the other copy",
            )

    def bank(self, digest: Digest) -> None:
        """Keep a layer in the project's store too, so that another machine can restore it."""
        if not self._bank.has(digest) and self._cache.has(digest):
            self._bank.put_file(self._cache.blob_path(digest), digest=digest, link=True)

    def lock_path(self, name: str) -> Path:
        """The file that processes of this machine lock while they build ``name``."""
        folder = Path(self._cache.location) / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name
