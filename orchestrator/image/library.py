"""What was built before: which key led to which digest, and the layers themselves, on this machine and banked.

The machine's cache answers first; the project's store (the bank) is what other machines restore from.
A key that leads to a second digest is drift: both stay, and the caller is told.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import CHUNK, Digest, hex_of, of_bytes, of_hasher, parse_digest
from orchestrator.errors import ImageError, StoreError
from orchestrator.image.belief import MACHINE, OWN, Anybody, Belief, Known, Origin, Told, folder_of, results
from orchestrator.ports import BlobWriter, Store
from orchestrator.store.cache import cache_folder as cache_folder
from orchestrator.store.folder import FolderStore
from orchestrator.store.remembered import Remembered


class Library:
    """Layers and key ledgers in the machine's cache, with the project's store behind it.

    ``belief`` says what of the store's ledgers counts. What is in the cache, this machine made itself.
    """

    def __init__(
        self,
        cache: FolderStore,
        bank: Store,
        banked: Iterable[str] = ("layers", "base"),
        belief: Belief | None = None,
    ) -> None:
        self._cache = cache
        self._bank = bank
        self._belief = belief or Anybody()
        self.banked = frozenset(banked)  # what the project's store is to keep (project.yaml, `bank`)

    def banking(self, bank: Store) -> Library:
        """The same cache before another bank: the project's store within a session."""
        return Library(self._cache, bank, self.banked, self._belief)

    def find(self, kind: str, key: Digest) -> dict[str, Json] | None:
        """What a key led to (the oldest, where there is drift), or None. Raises ImageError if unreadable."""
        known = self.look(kind, key)
        return None if known is None else known.entry

    def look(self, kind: str, key: Digest) -> Known | None:
        """What ``find`` gives, and how it is known: made here, or of the store and believed.

        The store is asked only for what this machine does not know.
        """
        here = results(self._cache, kind, key)
        if here:
            return Known(_oldest_first(here.values())[0], Origin(MACHINE, OWN))
        told = self._belief.believed(self._bank, kind, key)
        return min(told, key=lambda known: str(known.entry.get("created")), default=None)

    def refused(self, kind: str, key: Digest) -> list[Told]:
        """What the store says that a key led to, and is not believed."""
        return self._belief.refused(self._bank, kind, key)

    def ledger(self, kind: str, key: Digest) -> list[dict[str, Json]]:
        """Everything that a key ever led to, here or elsewhere and believed, oldest first."""
        told = {
            str(known.entry["digest"]): known.entry for known in self._belief.believed(self._bank, kind, key)
        }
        here = {str(entry["digest"]): entry for entry in results(self._cache, kind, key).values()}
        return _oldest_first({**told, **here}.values())

    def manifest(self, kind: str, key: Digest) -> bytes | None:
        """What a key was made of, where it is kept here or in the store, and hashes to the key."""
        for place in (self._cache, self._bank):
            data = place.read(f"{folder_of(kind, key)}/manifest.json")
            if data is not None and of_bytes(data) == key:
                return data
        return None

    def keep(self, kind: str, key: Digest, manifest: bytes, result: dict[str, Json]) -> str:
        """Write down that ``key`` (made of ``manifest``) led to ``result["digest"]`` here.

        Gives what else it led to before, here or by the store's word, in words; empty where there is no drift.
        """
        digest = parse_digest(result["digest"])
        others = {str(entry["digest"]): "" for entry in self.ledger(kind, key)}
        for told in self.refused(kind, key):
            others.setdefault(str(told.entry["digest"]), f" ({told.reason})")
        others.pop(digest, None)
        top = folder_of(kind, key)
        for place in (self._cache, self._bank):
            place.create(f"{top}/manifest.json", manifest)
            place.create(f"{top}/results/{hex_of(digest)}.json", canonical.encode(result))
        self._belief.vouch(self._bank, kind, key, result)
        return ", ".join(f"{other}{reason}" for other, reason in others.items())

    def put(self, data: bytes, kind: str = "") -> Digest:
        """Keep small bytes in both places."""
        digest = self._cache.put(data)
        self.bank(digest, kind)
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

    def bank(self, digest: Digest, kind: str = "") -> None:
        """Keep a blob in the project's store too, so that another machine can restore it.

        ``kind`` is a word of `bank:`; the store gets that kind where the project asks for it, and others always.
        """
        if kind and kind not in self.banked:
            return
        if not self._bank.has(digest) and self._cache.has(digest):
            self._bank.put_file(self._cache.blob_path(digest), digest=digest, link=True)

    def bank_key(self, kind: str, key: Digest) -> None:
        """Keep in the project's store too what this machine knows of a key, so that another machine finds it."""
        top = folder_of(kind, key)
        manifest = f"{top}/manifest.json"
        if self._bank.read(manifest) is None:
            for name in (
                *self._cache.keys(f"{top}/results/"),
                manifest,
            ):  # the manifest last: the rest is there
                data = self._cache.read(name)
                if data is not None:
                    self._bank.create(name, data)
        for entry in results(self._cache, kind, key).values():
            self._belief.vouch(self._bank, kind, key, entry, late=True)

    def keep_place(self, image: Digest, reference: str, entry: bytes) -> None:
        """Write down in the store, beside what an image's key led to, where the image was pushed to."""
        name = hex_of(of_bytes(reference.encode()))
        self._bank.create(f"keys/image/{hex_of(image)}/places/{name}.json", entry)

    @property
    def folder(self) -> Path:
        """The machine's cache."""
        return Path(self._cache.location)

    def lend_bases(
        self, other: FolderStore, layers_of: Callable[[dict[str, Json]], Iterable[Digest]]
    ) -> None:
        """Show another cache all bases that are known here, with their layers (by hard link where possible)."""
        for kind in ("base", "recipe", "dockerfile"):
            for key in {*_keys(self._bank, kind), *_keys(self._cache, kind)}:
                for entry in self.ledger(kind, key):
                    digest = parse_digest(entry["digest"])
                    name = f"{folder_of(kind, key)}/results/{hex_of(digest)}.json"
                    other.create(name, canonical.encode(entry))
                    for each in layers_of(entry) if kind == "base" else ():
                        self._lend(other, each)

    def _lend(self, other: FolderStore, digest: Digest) -> None:
        if other.has(digest):
            return
        if self._cache.has(digest):
            other.put_file(self._cache.blob_path(digest), digest=digest, link=True)
        elif self._bank.has(digest):
            with other.writer() as writer:
                for piece in self.read(digest):
                    writer.write(piece)
                writer.commit()

    def used(self, name: str) -> None:
        """An image of this name serves a run of this machine now: `mirage gc --machine` tells by it what is old."""
        with suppress(OSError):  # nothing but upkeep rests on it
            self._stamp(name).touch()

    def unused_for(self, name: str) -> float:
        """Seconds since an image last served; 0 at the first time that this is asked of it."""
        path = self._stamp(name)
        try:
            return max(0.0, time.time() - path.stat().st_mtime)
        except FileNotFoundError:
            self.used(name)
            return 0.0

    def note(self, name: str, text: str) -> None:
        """Write down, on this machine alone and in the place of an earlier note, what makes the next build quicker."""
        with suppress(StoreError):  # without it the next build takes longer
            self._notes.remove(name)
            self._notes.add(name, text.encode())

    def noted(self, name: str) -> str:
        """What ``note`` wrote; empty where there is nothing, or nothing whole."""
        return (self._notes.read(name) or b"").decode()

    @property
    def _notes(self) -> Remembered:
        return Remembered(self.folder / "notes")

    def _stamp(self, name: str) -> Path:
        folder = Path(self._cache.location) / "used"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name.replace("/", "-").replace(":", "-")

    @property
    def cache_id(self) -> str:
        """The identity of the machine's cache: how far the files of ``lock_path`` reach."""
        return hex_of(of_bytes(self._cache.read("store.json") or b""))[:24]

    def lock_path(self, name: str) -> Path:
        """The file that processes of this machine lock while they build ``name``."""
        folder = Path(self._cache.location) / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def _oldest_first(found: Iterable[dict[str, Json]]) -> list[dict[str, Json]]:
    return sorted(found, key=lambda entry: str(entry.get("created")))


def _keys(place: Store, kind: str) -> Iterator[Digest]:
    for name in place.keys(f"keys/{kind}/"):
        with suppress(StoreError):
            yield parse_digest(f"sha256:{name.split('/')[2]}")
