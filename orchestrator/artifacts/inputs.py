"""Inputs laid out for a run: verified, read-only trees in the project's cache, made once per tree."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from orchestrator.artifacts import tree
from orchestrator.artifacts.version import read_verified
from orchestrator.digest import Digest, hex_of
from orchestrator.errors import StoreError
from orchestrator.ports import Reporter, Store
from orchestrator.single_flight import single_flight


class InputCache:
    """Trees below one folder; hard links into the store where the disk can, so that a mount costs no copy."""

    def __init__(self, store: Store, folder: Path, reporter: Reporter) -> None:
        self._store = store
        self._folder = folder
        self._reporter = reporter

    def lay_out(self, digest: Digest) -> Path:
        """The folder with a tree's files, every byte verified when it was made, unchanged since by stat.

        Raises StoreError where a blob is missing or damaged.
        """
        target = self._folder / hex_of(digest)
        stamps = target.with_suffix(".json")
        if self._unchanged(target, stamps):
            return target
        self._folder.mkdir(parents=True, exist_ok=True)
        with single_flight(target.with_suffix(".lock"), "this input", self._reporter):
            if self._unchanged(target, stamps):
                return target
            if target.exists():
                self._reporter.warn(
                    f"the laid-out input {target.name[:12]} was changed from outside: made anew"
                )
                stamps.unlink(missing_ok=True)
                shutil.rmtree(target)
            entries = tree.parse(read_verified(self._store, digest))
            work = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            try:
                self._fill(work, entries)
                work.chmod(0o755)
                work.rename(target)
            except OSError as error:
                raise StoreError(
                    f"an input cannot be laid out in {self._folder}: {error.strerror}"
                ) from error
            finally:
                shutil.rmtree(work, ignore_errors=True)
            stamps.write_text(json.dumps(_stamps(target)))
        return target

    def _fill(self, top: Path, entries: tuple[tree.TreeEntry, ...]) -> None:
        for entry in entries:
            path = top / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "d":
                path.mkdir(exist_ok=True)
            elif entry.kind == "l":
                path.symlink_to(entry.target)
            else:
                assert entry.digest is not None
                self._store.materialise(entry.digest, path, executable=entry.executable)

    def _unchanged(self, target: Path, stamps: Path) -> bool:
        try:
            expected = json.loads(stamps.read_text())
        except (OSError, ValueError):
            return False
        return bool(expected == _stamps(target))


def _stamps(top: Path) -> dict[str, list[int]]:
    """Inode, size and modification time of every file; not ctime, which each further hard link changes."""
    found: dict[str, list[int]] = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[os.path.relpath(path, top)] = [status.st_ino, status.st_size, status.st_mtime_ns]
    return found
