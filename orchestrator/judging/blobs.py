"""Whether blobs and artifacts of a store are there and whole: each is hashed once, however often it is asked for."""

from __future__ import annotations

from orchestrator.artifacts import tree
from orchestrator.artifacts.version import Manifest, read_manifest, read_verified
from orchestrator.digest import Digest, of_file
from orchestrator.errors import StoreError
from orchestrator.ports import Store

OK = "ok"
MISMATCH = "mismatch"
MISSING = "missing"


class Blobs:
    """The blobs of one store, as they are now."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[Digest, str] = {}

    def state(self, digest: Digest) -> str:
        """`ok`, `missing`, or `mismatch` where other bytes lie under its name."""
        if digest not in self._known:
            self._known[digest] = self._look(digest)
        return self._known[digest]

    def _look(self, digest: Digest) -> str:
        try:
            with self.store.open(digest) as source:
                return OK if of_file(source) == digest else MISMATCH
        except StoreError:
            return MISSING
        except OSError:
            return MISMATCH  # it is there, and cannot be read

    def manifest(self, digest: Digest) -> Manifest | None:
        """An artifact's manifest, where it is there and whole."""
        try:
            return read_manifest(self.store, digest)
        except StoreError:
            return None

    def artifact(self, digest: Digest) -> tuple[str, str]:
        """The state of an artifact with everything that it holds, and in words what is wrong with it."""
        state = self.state(digest)
        if state != OK:
            return state, f"its manifest {digest}"
        manifest = self.manifest(digest)
        if manifest is None:
            return MISMATCH, f"{digest} is no artifact's manifest"
        state = self.state(manifest.tree)
        if state != OK:
            return state, f"its tree {manifest.tree}"
        try:
            entries = tree.parse(read_verified(self.store, manifest.tree))
        except StoreError as error:
            return MISMATCH, error.message
        files = [entry for entry in entries if entry.kind == "f"]
        if (len(files), sum(entry.size for entry in files)) != (manifest.files, manifest.size):
            return MISMATCH, "its manifest and its tree do not belong together"
        for entry in files:
            assert entry.digest is not None, "a file of a parsed tree has one"
            state = self.state(entry.digest)
            if state != OK:
                return state, f"its file {entry.path} ({entry.digest})"
        return OK, f"{manifest.files} file(s), {manifest.size} bytes"
