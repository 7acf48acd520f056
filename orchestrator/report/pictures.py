"""Pictures among a run's outputs: found by name, told by their first bytes, taken in up to a bound."""

from __future__ import annotations

import struct
from base64 import b64encode
from dataclasses import dataclass

from orchestrator.artifacts import tree
from orchestrator.artifacts.tree import TreeEntry
from orchestrator.artifacts.version import read_manifest, read_verified
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import MirageError
from orchestrator.ports import Store
from orchestrator.sizes import readable_size

LARGEST = 2 << 20  # bytes of one picture
MOST = 24  # of one run
IN_ALL = 16 << 20  # bytes of all pictures in a report
_PIXELS = 40_000_000  # a small file can unfold to a picture that no browser holds
_NAMES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Picture:
    """One picture; ``source`` is a data URL, or None with the reason why it is not shown."""

    artifact: str
    path: str
    size: int
    width: int = 0
    height: int = 0
    source: str | None = None
    reason: str = ""


class Album:
    """Takes in pictures until the report is full."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._room = IN_ALL

    def of_outputs(self, outputs: list[dict[str, object]]) -> tuple[Picture, ...]:
        """The pictures among the outputs of one run, in the order in which they were saved."""
        found: list[Picture] = []
        seen: set[str] = set()
        for output in outputs:
            name = str(output["id"])
            if name in seen:
                continue
            seen.add(name)
            try:
                manifest = read_manifest(self._store, parse_digest(str(output["digest"])))
                entries = tree.parse(read_verified(self._store, manifest.tree, limit=LARGEST))
            except MirageError:
                continue  # gone, or so many files that it is no album: the outputs' table has it all the same
            for entry in entries:
                if entry.kind == "f" and entry.path.lower().endswith(_NAMES):
                    found.append(self._take(name, entry, len(found)))
        return tuple(found)

    def _take(self, artifact: str, entry: TreeEntry, number: int) -> Picture:
        def refused(reason: str) -> Picture:
            return Picture(artifact, entry.path, entry.size, reason=reason)

        if number >= MOST:
            return refused(f"only the first {MOST} of a run are shown")
        if entry.size > LARGEST:
            return refused(f"larger than {readable_size(LARGEST)}")
        if entry.size > self._room:
            return refused("the report is full")
        try:
            data = read_verified(self._store, Digest(str(entry.digest)), limit=LARGEST)
        except MirageError as error:
            return refused(error.message)
        kind, width, height = measure(data)
        if not kind:
            return refused("not a PNG or JPEG inside")
        if width * height > _PIXELS:
            return refused(f"{width} x {height} pixels")
        self._room -= len(data)
        source = f"data:image/{kind};base64,{b64encode(data).decode()}"
        return Picture(artifact, entry.path, len(data), width, height, source)


def measure(data: bytes) -> tuple[str, int, int]:
    """Kind, width and height by the file's own head; ("", 0, 0) for what is no PNG or JPEG.

    PNG: W3C PNG 11.2.1, IHDR. JPEG: ITU-T T.81 B.2.2, the frame header.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return ("png", width, height) if width and height else ("", 0, 0)
    at = 2 if data[:3] == b"\xff\xd8\xff" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return ("jpeg", width, height) if width and height else ("", 0, 0)
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return "", 0, 0
