"""One package of a lock at one version. Reads no file: lock.py and requirement.py make these."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.canonical import Json

_USERINFO = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True)
class Pinned:
    """One package at one version; ``hashes`` are those of the files that may be installed for it."""

    name: str
    version: str
    extras: tuple[str, ...]
    marker: str | None
    hashes: tuple[str, ...]
    line: int

    def requirement(self) -> str:
        """The line that an installer takes, in one normal form."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}{extras}=={self.version}{marker}" + "".join(f" --hash={h}" for h in self.hashes)

    def to_json(self) -> Json:
        """What enters the environment's key: everything but the line number."""
        return {
            "name": self.name,
            "version": self.version,
            "extras": list(self.extras),
            "marker": self.marker,
            "hashes": list(self.hashes),
        }


def shown(text: str) -> str:
    """Text of the lock for a message, without user names and passwords of its URLs."""
    return repr(_USERINFO.sub("//", text))
