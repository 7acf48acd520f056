"""What the store promises, as it was found out by trying."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.checks.finding import OK, WARN, Finding
from orchestrator.store.folder import FolderStore
from orchestrator.store.probing import probe

if TYPE_CHECKING:
    from orchestrator.ports import Store


def examine(store: Store) -> Iterator[Finding]:
    """A folder is tried anew, which takes a moment; of a bucket, what was found before is told. Raises StoreError."""
    from orchestrator.store.s3 import S3Store

    if isinstance(store, FolderStore):
        probe(store)
        kind = file_system(Path(store.location)) or "its file system"
        yield Finding("store", OK, f"{store.location}: creates once by link(2), on {kind}")
        if os.stat(store.location).st_mode & 0o002:
            yield Finding(
                "store",
                WARN,
                f"everybody on this machine may write to {store.location}",
                f"chmod -R o-w {store.location}; whoever writes to a store can exchange what is in it",
            )
    elif isinstance(store, S3Store):
        yield Finding("store", OK, store.location)
        yield Finding("store", OK, f"its server {store.promises().summary()}")
    else:
        yield Finding("store", OK, store.location)


def file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on (proc(5), mountinfo); empty where that cannot be told."""
    try:
        device = os.stat(folder).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            if line.split()[2] == wanted:
                return line.partition(" - ")[2].split()[0]
    except (OSError, IndexError):
        pass
    return ""
