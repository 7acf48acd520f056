"""The source of a package at a commit, its repository's or the project's own, brought into the builder.

A repository is fetched by this machine's git, not by the builder.

So a base needs no git, and no login of the host reaches the builder. The same commit gives the same bytes there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from orchestrator.errors import LockError, SourceError
from orchestrator.image import layer
from orchestrator.image.layer import Entry
from orchestrator.locks import vcs
from orchestrator.locks.pinned import Pinned
from orchestrator.source import remote
from orchestrator.source.content import read_blobs
from orchestrator.source.snapshot import SourceFile

ARCHIVE = "build/commit.tar"
FOLDER = "/build/commit"
# by whoever runs the build, who may then write there
UNPACK = f"import tarfile; tarfile.open('/{ARCHIVE}').extractall('{FOLDER}')"


def archive(where: str, package: Pinned) -> bytes:
    """The files of a package's commit as a tar. Raises LockError where they cannot be had."""
    place = vcs.parse(package.vcs)
    try:
        files = remote.files(place.url, place.commit, place.folder)
    except SourceError as error:
        raise LockError(f"{where}: {package.name}: {error.message}", hint=error.hint) from error
    entries = (
        Entry(file.path, "link" if file.link else "file", file.executable, data=file.content)
        for file in files
    )
    return layer.to_bytes(entries)


def of_folder(files: Iterable[SourceFile], folder: str) -> bytes:
    """A folder of the project's own commit as a tar."""
    below = os.fsencode(folder) + b"/"
    inside = [file for file in files if file.path.startswith(below)]
    entries = (
        Entry(
            file.path[len(below) :],
            "link" if file.mode == "120000" else "file",
            file.mode == "100755",
            data=data,
        )
        for file, data in read_blobs(inside)
    )
    return layer.to_bytes(entries)


def versions(package: Pinned) -> tuple[tuple[str, str], ...]:
    """What tools that ask the repository for a version are told instead, where the lock says it."""
    if not package.version:
        return ()
    name = re.sub(r"[-.]+", "_", package.name).upper()
    return (
        (f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{name}", package.version),
        ("POETRY_DYNAMIC_VERSIONING_BYPASS", package.version),
    )
