"""Opening a store by what `store:` says: the one place that chooses a backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.store.folder import FolderStore

if TYPE_CHECKING:
    from orchestrator.ports import Store


def open_store(where: str, project: Path) -> Store:
    """The store of a project: a folder, absolute or below the project. Raises StoreError."""
    scheme, separator, rest = where.partition("://")
    if not separator:
        return FolderStore.open_at(project / Path(where).expanduser())
    if scheme == "file":
        return FolderStore.open_at(Path(rest))
    raise StoreError(
        f"this version of Mirage cannot open the store {where} ({scheme}://)",
        hint="name a folder or a NAS mount under `store:` in .mirage/project.yaml",
    )
