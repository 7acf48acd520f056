"""Single files of a run's outbox, by descriptor: the workflow owns the directory, and no link of it is followed."""

from __future__ import annotations

import json
import os
import secrets
import stat
from contextlib import suppress
from typing import Any

from orchestrator.digest import CHUNK
from orchestrator.errors import ArtifactError

_READY_LIMIT = 1 << 20


def read_json(folder: int, name: str) -> Any:
    """A small JSON file that a workflow wrote. Raises ArtifactError."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ArtifactError(f"{name} is not a regular file")
            data = b""
            while len(data) <= _READY_LIMIT and (piece := os.read(descriptor, CHUNK)):
                data += piece
        finally:
            os.close(descriptor)
        if len(data) > _READY_LIMIT:
            raise ArtifactError(f"{name} is larger than {_READY_LIMIT >> 20} MiB", hint="keep metadata small")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} cannot be read: {error}") from error


def size_of(name: str, folder: int) -> int | None:
    """The size of a file that a workflow names, or None where it is not there."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except (OSError, ValueError):
        return None


def write(folder: int, name: str, data: bytes) -> None:
    """Write a file that the workflow reads: whole or not at all. Raises OSError."""
    temporary = f".{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o644, dir_fd=folder)
    try:
        with open(descriptor, "wb") as sink:
            os.fchmod(descriptor, 0o644)  # whatever our umask is, the workflow's user must read it
            sink.write(data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
