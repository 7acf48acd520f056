"""Inputs laid out for a run: verified, read-only trees in the project's cache, made once per tree."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from orchestrator.artifacts import tree
from orchestrator.artifacts.version import read_verified
from orchestrator.digest import Digest, hex_of
from orchestrator.errors import StoreError
from orchestrator.ports import Reporter, Store
from orchestrator.progress import Meter
from orchestrator.single_flight import single_flight


class InputCache:
    """Trees below one folder; hard links into the store where the disk can, so that a mount costs no copy."""

    def __init__(self, store: Store, folder: Path, reporter: Reporter) -> None:
        self._store = store
        self._folder = folder
        self._reporter = reporter

    def lay_out(self, digest: Digest) -> Path:
        """The folder with a tree's files, every byte verified when it was made, unchanged since by stat.

        Raises StoreError where a blob is missing or damaged, or the folder cannot be written.
        """
        target = self._folder / hex_of(digest)
        stamps = target.with_suffix(".json")
        with suppress(OSError):
            os.utime(stamps)  # before the look: who makes room (upkeep/trees.py) sees that it is used
        if _unchanged(target, stamps):
            return target
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with single_flight(target.with_suffix(".lock"), "this input", self._reporter):
                if not _unchanged(target, stamps):
                    self._make(digest, target, stamps)
        except OSError as error:
            raise StoreError(f"an input cannot be laid out in {self._folder}: {error.strerror}") from error
        return target

    def changed(self, digest: Digest) -> bool:
        """Whether somebody wrote to a tree that was laid out, by stat; one that is gone was not written to."""
        target = self._folder / hex_of(digest)
        return target.exists() and not _unchanged(target, target.with_suffix(".json"))

    def _make(self, digest: Digest, target: Path, stamps: Path) -> None:
        entries = tree.parse(read_verified(self._store, digest))
        if target.exists():
            self._reporter.warn(f"the laid-out input {target.name[:12]} was changed from outside: made anew")
            stamps.unlink(missing_ok=True)
            _remove(target)
        new = f".new-{target.name[:16]}-"
        for left_behind in self._folder.glob(f"{new}*"):  # under the lock: its maker is dead
            _remove(left_behind)
        work = Path(tempfile.mkdtemp(prefix=new, dir=self._folder))
        try:
            self._fill(work, entries)
            for folder, _, _ in os.walk(work):  # whatever our umask is, the workflow's user must read it
                Path(folder).chmod(0o755)
            # The stamps come first: a tree without them was changed, stamps without a tree are made anew.
            written = work.with_suffix(".json")
            written.write_text(json.dumps(_stamps(work)))
            written.replace(stamps)
            work.rename(target)
        finally:
            _remove(work)

    def _fill(self, top: Path, entries: tuple[tree.TreeEntry, ...]) -> None:
        digests = [entry.digest for entry in entries if entry.digest is not None]
        with Meter(self._reporter, "fetch", sum(entry.size for entry in entries)) as meter:
            self._store.fetch(digests, meter.add)
        made = {top}
        for entry in entries:
            path = top / entry.path
            folder = path if entry.kind == "d" else path.parent
            if folder not in made:
                folder.mkdir(parents=True, exist_ok=True)
                made.add(folder)
            if entry.kind == "l":
                path.symlink_to(entry.target)
            elif entry.digest is not None:
                self._store.materialise(entry.digest, path, executable=entry.executable)
                if path.lstat().st_size != entry.size:
                    raise StoreError(f"{entry.path!r} is not as long as its tree says ({entry.size} bytes)")


def _unchanged(target: Path, stamps: Path) -> bool:
    try:
        expected = json.loads(stamps.read_text())
        return bool(expected == _stamps(target))
    except (OSError, ValueError, RecursionError):
        return False


def _stamps(top: Path) -> dict[str, list[int]]:
    """Inode, size, modification time and mode of everything; not ctime, which each further hard link changes."""
    found: dict[str, list[int]] = {".": _stamp(os.lstat(top))}
    pending = [("", str(top))]
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as items:
            for item in items:
                status = item.stat(follow_symlinks=False)
                found[prefix + item.name] = _stamp(status)
                if stat.S_ISDIR(status.st_mode):
                    pending.append((f"{prefix}{item.name}/", item.path))
    return found


def _stamp(status: os.stat_result) -> list[int]:
    # a folder's size is the file system's own business
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return [status.st_ino, size, status.st_mtime_ns, status.st_mode]


def _remove(folder: Path) -> None:
    """Remove a tree, whatever was done to its folders' modes, or a file."""
    for inner, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(inner, 0o700)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
