"""What the store promises, as it was found out by trying."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.checks.finding import OK, WARN, Finding
from orchestrator.store.folder import FolderStore
from orchestrator.store.probing import probe

if TYPE_CHECKING:
    from orchestrator.ports import Store


def examine(store: Store) -> Iterator[Finding]:
    """A folder is tried anew, which takes a moment; so is a bucket, where what was found before was forgotten.

    Raises StoreError.
    """
    from orchestrator.store.bucket.failures import AccessDenied
    from orchestrator.store.s3 import S3Store

    if isinstance(store, FolderStore):
        found = probe(store)
        yield Finding(
            "store", OK, f"{store.location} on {found.kind or 'its file system'}: {found.summary()}"
        )
        if os.stat(store.location).st_mode & 0o002:
            yield Finding(
                "store",
                WARN,
                f"everybody on this machine may write to {store.location}",
                f"chmod -R o-w {store.location}; whoever writes to a store can exchange what is in it",
            )
    elif isinstance(store, S3Store):
        yield Finding("store", OK, store.location)
        try:
            yield Finding("store", OK, f"its server {store.promises().summary()}")
        except AccessDenied as error:  # who only reads needs no promise
            yield Finding(
                "store", WARN, f"what its server promises cannot be tried: {error.message}", error.hint
            )
    else:
        yield Finding("store", OK, store.location)
