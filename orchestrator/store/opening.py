"""Opening a store by what `store:` says: the one place that chooses a backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.store.folder import FolderStore

if TYPE_CHECKING:
    from orchestrator.ports import Store
    from orchestrator.settings import S3Settings
    from orchestrator.store.bucket.client import Bucket


def open_store(
    where: str,
    project: Path,
    s3: S3Settings | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Store:
    """The store of a project: a folder, absolute or below the project, or a bucket. Raises StoreError.

    ``tell`` hears it where a bucket does not answer, and what this machine remembers of it is used.
    """
    scheme, separator, rest = where.partition("://")
    if not separator:
        return FolderStore.open_at(project / Path(where).expanduser())
    if scheme == "file":
        return FolderStore.open_at(Path(rest))
    if scheme == "s3":
        return _open_bucket(where, s3, tell)
    raise StoreError(
        f"this version of Mirage cannot open the store {where} ({scheme}://)",
        hint="name a folder, a NAS mount or s3://bucket/prefix under `store:` in .mirage/project.yaml",
    )


def _open_bucket(uri: str, s3: S3Settings | None, tell: Callable[[str], None]) -> Store:
    from orchestrator.store.cache import cache_folder
    from orchestrator.store.s3 import S3Store

    return S3Store.open_at(_bucket(uri, s3), cache_folder() / "stores", tell)


def forget_promises(where: str, s3: S3Settings) -> None:
    """Whoever opens this store next tries anew what its server promises; a folder is tried when it is made only."""
    if where.startswith("s3://"):
        from orchestrator.store.bucket import kept
        from orchestrator.store.cache import cache_folder
        from orchestrator.store.s3 import PROBES

        kept.forget(_bucket(where, s3), cache_folder() / "stores" / PROBES)


def _bucket(uri: str, s3: S3Settings | None) -> Bucket:
    from orchestrator.settings import S3Settings
    from orchestrator.store.bucket.client import Bucket
    from orchestrator.store.bucket.place import parse_uri

    settings = s3 or S3Settings()
    place = parse_uri(
        uri,
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        profile=settings.profile,
        addressing_style=settings.addressing_style,
    )
    return Bucket(place)
