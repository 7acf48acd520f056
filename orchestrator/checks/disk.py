"""Space: what is free where Mirage and the engine write, and how much of it is theirs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.checks.finding import FAIL, OK, WARN, Finding
from orchestrator.errors import StoreError
from orchestrator.sizes import readable_size

LEAST_FREE = 5 << 30  # bytes; an environment with a deep learning library needs about this much
_NONE_LEFT = 64 << 20  # below it not even a small run ends well
_LEAST_FILES = 10_000  # names a file system must still have: one environment is tens of thousands of files
_PATIENCE = 1.0  # seconds for measuring all folders; what a small one leaves of its share is for the next


def examine(places: list[tuple[str, Path, str]]) -> Iterator[Finding]:
    """One finding for each place: what it is for, where, and what frees space there. A missing folder is passed over.

    Places on one file system share its free space; the smallest numbers are what counts.
    """
    until = time.monotonic() + _PATIENCE
    for at, (what, folder, hint) in enumerate(places):
        if not folder.is_dir():
            continue
        try:
            usage = shutil.disk_usage(folder)
            free_names = os.statvfs(folder)
        except OSError as error:
            yield Finding("disk", WARN, f"{what}: {folder} cannot be looked at: {error.strerror}", hint)
            continue
        used = _used(folder, (until - time.monotonic()) / (len(places) - at))
        text = f"{what}: {readable_size(usage.free)} free of {readable_size(usage.total)}{used} ({folder})"
        if free_names.f_files and free_names.f_favail < _LEAST_FILES:
            text += f"; only {free_names.f_favail} more files fit (inodes)"
            yield Finding("disk", WARN, text, hint)
        elif usage.free < _NONE_LEFT:
            yield Finding("disk", FAIL, text, hint, StoreError.exit_code)
        else:
            low = usage.free < LEAST_FREE
            yield Finding("disk", WARN if low else OK, text, hint if low else None)


def _used(folder: Path, seconds: float) -> str:
    """How much lies in a folder, in words; of a large one, what was counted in the time that there is."""
    until = time.monotonic() + seconds
    total, seen = 0, set()
    device = os.stat(folder).st_dev  # below an engine's data lie the mounts of its containers
    pending = [str(folder)]
    while pending:
        if time.monotonic() > until:
            return f", more than {readable_size(total)} used here"
        try:
            with os.scandir(pending.pop()) as items:
                for item in items:
                    status = item.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    if item.is_dir(follow_symlinks=False):
                        pending.append(item.path)
                        continue
                    if status.st_nlink > 1:  # one file by several names takes its room once
                        if (status.st_dev, status.st_ino) in seen:
                            continue
                        seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
        except OSError:
            continue  # it went meanwhile, or is not ours to see
    return f", {readable_size(total)} used here"
