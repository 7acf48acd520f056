"""What a run may publish: how much of it, and nothing with a secret in it.

Looks at an artifact's files before they are taken. Does not see into compressed formats.
"""

from __future__ import annotations

import os

from orchestrator.digest import CHUNK
from orchestrator.errors import ArtifactError
from orchestrator.redaction import Redactor
from orchestrator.settings import OutputSettings
from orchestrator.sizes import readable_size


class SecretInArtifact(ArtifactError):
    """The value of a secret is in what is to be published."""


class Guard:
    """The limits of one run's outputs, counted over all of them; one thread at a time.

    Bytes count as the files' sizes say, holes included: that is what a reader of the artifact gets. Holes count once
    more: a file of a terabyte that takes no room at all still has to be read.
    """

    def __init__(self, redactor: Redactor | None = None, limits: OutputSettings | None = None) -> None:
        self.redactor = redactor or Redactor()
        self._limits = limits
        self._looks = self.redactor.active and (limits is None or limits.secrets == "refuse")
        self.counted = (
            0,
            0,
            0,
        )  # bytes, holes, files; whoever gives up an artifact puts back what it was before

    def check_text(self, data: bytes, where: str) -> None:
        """Check a name, a link or metadata. Raises SecretInArtifact."""
        name = self.redactor.found_in(data) if self._looks else None
        if name is not None:
            raise _secret(name, where)

    def check_file(self, descriptor: int, status: os.stat_result, path: str) -> None:
        """Check an open regular file, and count it. Raises ArtifactError, of which SecretInArtifact is one."""
        self._count(status, path)
        if not self._looks:
            return
        at, before = 0, b""
        while piece := os.pread(descriptor, CHUNK, at):
            window = before + piece
            name = self.redactor.found_in(window)
            if name is not None:
                raise _secret(name, f"its file {path!r}")
            before = window[max(0, len(window) - self.redactor.overlap) :]
            at += len(piece)

    def _count(self, status: os.stat_result, path: str) -> None:
        if self._limits is None:
            return
        size, holes = status.st_size, max(0, status.st_size - status.st_blocks * 512)
        counted = (self.counted[0] + size, self.counted[1] + holes, self.counted[2] + 1)
        checks = (
            ("max_bytes", counted[0], self._limits.max_bytes, "bytes"),
            ("max_holes", counted[1], self._limits.max_holes, "bytes that are holes"),
            ("max_files", counted[2], self._limits.max_files, "files"),
        )
        for key, count, limit, what in checks:
            if count > limit:
                raise ArtifactError(
                    f"with {path!r} ({readable_size(size)}) this run would have saved {count:,} {what}, and at most "
                    f"{limit:,} are allowed",
                    hint=f"`run: {{outputs: {{{key}: ...}}}}` in .mirage/project.yaml allows more",
                )
        self.counted = counted


def _secret(name: str, where: str) -> SecretInArtifact:
    return SecretInArtifact(
        f"the value of the secret {name} is in {where}",
        hint="what is published can never be taken back. `run: {outputs: {secrets: allow}}` in .mirage/project.yaml "
        "publishes it all the same",
    )


NO_GUARD = Guard()
