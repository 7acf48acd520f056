"""The bytes of a snapshot's files: in batches, LFS objects in the place of their pointers.

Which files there are is the snapshot's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git, lfs, objects
from orchestrator.source.snapshot import Snapshot, SourceFile

BATCH_BYTES = 64 << 20  # a larger file is a batch of its own


def read_blob(snapshot: Snapshot, path: bytes) -> bytes:
    """The content of one file. Raises SourceError where the commit has no such file."""
    for file in snapshot.files:
        if file.path == path:
            if not file.lfs and (held := dict(snapshot.held).get(file.oid)) is not None:
                return held
            return next(data for _, data in read_blobs((file,)))
    raise SourceError(f"{git.printable(path)} is not in the commit {snapshot.commit[:12]}")


def read_blobs(files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
    """The files with their content, an LFS object in the place of its pointer.

    At most about 64 MiB are held at once (one file where it is larger). Raises SourceError for an object that
    the clone does not have, naming the file.
    """
    folders: dict[Path, Path] = {}
    for repository, batch in _batches(files):
        for file, data in zip(batch, objects.contents(repository, [file.oid for file in batch]), strict=True):
            if data is None:
                raise objects.absent(file.path, file.oid)
            if file.lfs:
                if repository not in folders:
                    folders[repository] = lfs.folder_of(repository)
                yield file, _smudged(file, data, folders[repository])
            else:
                yield file, data


def _smudged(file: SourceFile, data: bytes, folder: Path) -> bytes:
    pointer = lfs.parse_pointer(data)
    content = None if pointer is None or pointer.extended else lfs.read_object(folder, pointer)
    if content is None:
        raise SourceError(
            f"{git.printable(file.path)} is a Git LFS pointer, and its object in this clone is absent or damaged",
            hint="git lfs fsck; git lfs pull",
        )
    return content


def _batches(files: Iterable[SourceFile]) -> Iterator[tuple[Path, list[SourceFile]]]:
    """Files of one repository at a time, in their order, not too many bytes at once."""
    batch: list[SourceFile] = []
    size = 0
    for file in files:
        if batch and (file.repository != batch[0].repository or size + file.size > BATCH_BYTES):
            yield batch[0].repository, batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch[0].repository, batch
