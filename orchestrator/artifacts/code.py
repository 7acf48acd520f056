"""Which files of an artifact can carry code that runs when they are loaded: told by their names and first bytes.

A warning before somebody loads a file, not a scan: it looks for what runs code by design, and opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.artifacts.tree import TreeEntry
from orchestrator.errors import StoreError
from orchestrator.ports import Store

# How many files are looked into, and how far: what matters stands at the beginning.
_FILES = 1000
_BYTES = 4096
_SUFFIXES = (".pkl", ".pickle", ".p", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".cloudpickle")
# Protocol 2 and later begin so (pickletools: PROTO); the next opcode of 4 and later is FRAME.
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_NUMPY_OBJECTS = re.compile(rb"'descr': *'\|O'|'\|O[0-9]*'")


@dataclass(frozen=True)
class Carrier:
    """A file that can carry code, and what it is."""

    path: str
    why: str


def carriers(store: Store, entries: Iterable[TreeEntry]) -> list[Carrier]:
    """The files of a tree that can carry code; those that the store cannot give are judged by their names."""
    found = []
    looked = 0
    for entry in entries:
        if entry.kind != "f" or entry.digest is None:
            continue
        begin = b""
        if looked < _FILES:
            looked += 1
            try:
                with store.open(entry.digest) as source:
                    begin = source.read(_BYTES)
            except (StoreError, OSError):
                pass
        why = _why(entry.path, begin)
        if why is not None:
            found.append(Carrier(entry.path, why))
    return found


def _why(path: str, begin: bytes) -> str | None:
    if begin.startswith(b"PK\x03\x04") and b"/data.pkl" in begin[:512]:
        return "a PyTorch archive with a pickle"
    if begin.startswith((b"\x93NUMPY", b"PK\x03\x04")) and _NUMPY_OBJECTS.search(begin):
        return "an array of Python objects, pickled"
    if _PICKLE.match(begin):
        return "a pickle"
    if path.lower().endswith(_SUFFIXES):
        return f"by its name (.{path.rpartition('.')[2].lower()}) a pickle"
    return None
