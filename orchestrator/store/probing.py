"""Whether a file system keeps the one promise that a store in a folder rests on: it gives a name once."""

from __future__ import annotations

import os
from contextlib import suppress

from orchestrator.errors import StoreError
from orchestrator.store.disk import NO_LINK, told
from orchestrator.store.staging import Place, staged_name


def probe(place: Place) -> None:
    """See that this file system gives a name once: everything that is created at most once rests on it."""
    first, second = (f"{staged_name(place)}.{number}" for number in "12")
    try:
        with told(f"open the store {place.location}"):
            for name in (first, second):
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            try:
                os.link(first, second)
            except FileExistsError:
                os.unlink(second)
            else:
                raise StoreError(
                    f"the file system of {place.location} lets a second publisher replace a first"
                )
            try:
                os.link(first, second)
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
                raise StoreError(
                    f"the file system of {place.location} has no hard links ({error.strerror}), "
                    "which is how a version is given to one publisher only",
                    hint="name a folder on another one under `store:` (ext4, XFS, Btrfs, tmpfs, NFS have them)",
                ) from error
    finally:
        for name in (first, second):
            with suppress(OSError):
                os.unlink(name)
