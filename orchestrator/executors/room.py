"""The disk that a run may fill: its outbox is watched while it runs, and the run is ended before the disk is full.

No engine bounds a folder that is mounted, and not every file system has quotas; looking is what works everywhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.ends import DISK
from orchestrator.settings import OutputSettings
from orchestrator.sizes import readable_size

_EVERY = 0.25  # seconds between two looks: one system call each
_USUAL = 1 << 30  # bytes that stay free, where the file system is large enough
_SHARE = 20  # else one part in so many of it
_BETWEEN = 2000  # files of the outbox that are counted between two looks at the disk


class Watch:
    """Looks at a run's outbox until it is left; calls ``end`` once, where there is too much in it or too little beside it.

    ``told`` then says why.
    """

    def __init__(self, folder: Path, limits: OutputSettings, end: Callable[[], object]) -> None:
        self.told: str | None = None
        self._folder = folder
        self._limits = limits
        self._end = end
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(1.0)

    def _look(self) -> None:
        with suppress(OSError):  # the folder is gone: then nothing more comes into it
            free = _free(self._folder)[0]
            while not self._done.wait(_EVERY):
                self.told = self._short() or self._much(free)
                if self.told is not None:
                    self._end()
                    return

    def _short(self) -> str | None:
        free, total = _free(self._folder)
        least = self._limits.keep_free
        least = min(_USUAL, total // _SHARE) if least is None else least
        if free >= least:
            return None
        return (
            f"{DISK}{readable_size(free)} are free in {self._folder}, and {readable_size(least)} must stay "
            "(run.outputs.keep_free)"
        )

    def _much(self, before: int) -> str | None:
        """Counting costs a walk: it is done only where the disk has lost as much as is allowed."""
        most = self._limits.max_bytes
        if before - _free(self._folder)[0] < most:
            return None
        used = count = 0
        for _, folders, files, top in os.fwalk(self._folder, follow_symlinks=False):
            for name in (*folders, *files):
                with suppress(OSError):
                    used += os.stat(name, dir_fd=top, follow_symlinks=False).st_blocks * 512
                count += 1
                if count % _BETWEEN == 0 and (self._done.is_set() or (short := self._short())):
                    return None if self._done.is_set() else short
            if used > most:
                return f"{DISK}more than {readable_size(most)} are in its outbox (run.outputs.max_bytes)"
        return None


def _free(folder: Path) -> tuple[int, int]:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
