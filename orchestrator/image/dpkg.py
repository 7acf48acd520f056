"""Which Debian packages are installed in a root file system, by its own dpkg status file (deb-control(5))."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

_STATUS = ("var/lib/dpkg/status", "./var/lib/dpkg/status")
_FIELD = re.compile(r"([A-Z][\w-]*): (.*)")


def installed(tar: Path) -> tuple[tuple[str, str], ...]:
    """Names and versions, sorted; empty where the system is no Debian."""
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            body = archive.extractfile(member) if member.name in _STATUS and member.isreg() else None
            if body is not None:
                return tuple(sorted(_parse(body.read().decode("utf-8", "replace"))))
    return ()


def _parse(status: str) -> Iterator[tuple[str, str]]:
    for paragraph in status.split("\n\n"):
        lines = map(_FIELD.fullmatch, paragraph.split("\n"))
        fields = {match[1]: match[2] for match in lines if match is not None}
        if fields.get("Status", "").endswith(" installed"):
            yield fields["Package"], fields["Version"]
