"""Whether a file system keeps what a store in a folder rests on: above all that it gives a name once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.store.disk import told
from orchestrator.store.staging import Place, staged_name

if TYPE_CHECKING:
    from orchestrator.store.promises import FolderPromises


def probe(place: Place) -> FolderPromises:
    """Try what this file system promises. Raises StoreError where it is too little for a store."""
    from orchestrator.store.promises import examine  # a store is made once

    with told(f"open the store {place.location}"):
        found = examine(lambda: staged_name(place))
    if found.problem is not None:
        raise StoreError(
            f"the file system of {place.location} {found.problem}",
            hint=(
                "mount it without nocto"
                if found.nocto
                else "name a folder on another one under `store:`: ext4, XFS, Btrfs, tmpfs and NFS do, and so does a bucket "
                "(docs/store.md); most servers of SMB give the same folder by NFS too"
            ),
        )
    return found
