"""The objects of a store in a folder: created at most once by link(2), and what names them durably.

A folder is named durably before anything is put into it. Blobs are folder.py's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.store import folder_upkeep, mounts
from orchestrator.store.disk import folder_below, sync, told, write_all
from orchestrator.store.keys import accumulated, check_key, is_key_part
from orchestrator.store.staging import staged_name


class FolderObjects:
    """The objects below one folder; safe for any number of processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = str(root / "staging")
        self._known_folders: set[str] = set()
        self._near: bool | None = None  # whether it lies on a disk of this machine, once that was asked

    @property
    def location(self) -> str:
        """The folder."""
        return str(self._root)

    def staging(self) -> str:
        """The folder for unfinished files."""
        self._make_folder(self._staging)
        return self._staging

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists; durable when it returns, whoever made it.

        link(2) decides, as O_EXCL and rename do not on every NAS; a lost reply is told by the name that our
        own file then has. The count of its names is not enough: some mounts count one that they refused.
        """
        target = str(self._key_path(key))
        with told(f"write {key} in the store {self._root}"):
            self._make_folder(os.path.dirname(target))
            if os.path.lexists(target):
                sync(os.path.dirname(target))
                mounts.shown(str(self._root), target)
                return False
            staged = staged_name(self)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                write_all(descriptor, data)
                os.fchmod(descriptor, 0o444)
                os.fsync(descriptor)
                made = True
                try:
                    os.link(staged, target)
                except OSError:
                    if not mounts.is_named(descriptor, target):
                        if not os.path.lexists(target):
                            raise
                        made = False
                sync(os.path.dirname(target))
                if not made:
                    mounts.shown(str(self._root), target)
                return made
            finally:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(staged)

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None."""
        path = self._key_name(key)
        try:
            try:
                return mounts.read(path)
            except (FileNotFoundError, NotADirectoryError):
                return None if self.is_near() else mounts.read_late(str(self._root), path)
        except OSError as error:
            raise StoreError(f"cannot read {key} in {self._root}: {error.strerror}") from error

    def is_near(self) -> bool:
        """Whether what a stat says is so, since nobody but this machine changes it; not so before there is a folder."""
        if self._near is None:
            try:
                self._near = mounts.is_near(str(self._root))
            except (FileNotFoundError, NotADirectoryError):
                return True
        return self._near

    def reads(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Many objects, one after the other."""
        return ((key, self.read(key)) for key in keys)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, in bytewise order; what others put there (`.nfs0001`) is passed over."""
        pending = [(str(self._key_path(prefix.rstrip("/"))), prefix.rstrip("/"))]
        if any(os.path.islink(f"{self._root}/{part}") for part in accumulated(prefix.rstrip("/"))):
            return
        found: list[str] = []
        near = self.is_near()
        if not near and not mounts.reached(str(self._root), pending[0][0]):
            return
        while pending:
            folder, key = pending.pop()
            with told(f"list {folder}"):
                try:
                    if not near:
                        mounts.forget(folder)
                    items = list(os.scandir(folder))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                for item in items:
                    if not is_key_part(item.name):
                        continue
                    inner = f"{key}/{item.name}"
                    if item.is_dir(follow_symlinks=False):
                        pending.append((item.path, inner))
                    else:
                        found.append(inner)
        yield from sorted(found)

    def ages(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Keys with the seconds since each was written."""
        return folder_upkeep.ages(self, ((key, self._key_path(key)) for key in self.keys(prefix)))

    def replace(self, key: str, data: bytes, *, durable: bool = False) -> None:
        """Write an object whether it exists or not, whole."""
        target = str(self._key_path(key))
        with told(f"write {key} in the store {self._root}"):
            self._make_folder(os.path.dirname(target))
            folder_upkeep.replace(self, target, data, durable)

    def discard(self, key: str) -> None:
        """Remove an object; missing is fine."""
        check_key(key)
        *parts, name = key.split("/")
        with (
            told(f"remove {key} from the store {self._root}"),
            suppress(FileNotFoundError),
            folder_below(str(self._root), parts) as folder,
        ):
            os.unlink(name, dir_fd=folder)

    def _key_path(self, key: str) -> Path:
        return Path(self._key_name(key))

    def _key_name(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key}"

    def _make_folder(self, folder: str) -> None:
        """Make a folder and everything above it, each named durably before it is used."""
        if folder in self._known_folders:
            return
        if os.path.isdir(folder):
            # another process may have made it this moment, and not come to its sync yet
            if len(folder) > len(str(self._root)):
                sync(os.path.dirname(folder))
        else:
            above = os.path.dirname(folder)
            if above and above != folder:
                self._make_folder(above)
            with suppress(FileExistsError):
                os.mkdir(folder)
            sync(above or ".")
        self._known_folders.add(folder)
