"""How builders go: those that dead processes left are found, others are taken apart while their layer is loaded.

Thousands of files cost the engine seconds.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from orchestrator.digest import Digest, hex_of
from orchestrator.errors import EngineError
from orchestrator.image.library import Library
from orchestrator.ports import Engine, Reporter

BUILDER_LABEL = "flow.mirage.builder"
_OWNER_LABEL = "flow.mirage.builder-owner"
# what is deleted need not go to the disk when the engine unmounts the container's files
_EMPTY = "import shutil; [shutil.rmtree(each, True) for each in ('/opt/venv', '/build')]"


class Removals:
    """The containers that are being removed, one after the other."""

    def __init__(self, engine: Engine, reporter: Reporter) -> None:
        self._engine = engine
        self._reporter = reporter
        self._thread = ThreadPoolExecutor(1)
        self._begun: list[Future[None]] = []

    def begin(self, container: str, python: str) -> None:
        """Remove a container that has this Python, in the background."""
        self._begun.append(self._thread.submit(self._remove, container, python))

    def wait(self) -> None:
        """Wait until all are gone. Raises EngineError where one is not."""
        self._thread.shutdown()
        for removal in self._begun:
            removal.result()

    def _remove(self, container: str, python: str) -> None:
        with suppress(EngineError):
            self._engine.run_in(container, (python, "-I", "-c", _EMPTY), (), self._reporter)
        self._engine.remove(container)


def labels_of(library: Library, key: Digest) -> tuple[tuple[str, str], ...]:
    """What a builder for a key is known by."""
    return (BUILDER_LABEL, hex_of(key)), (_OWNER_LABEL, library.cache_id)


def remove_stale(engine: Engine, library: Library, key: Digest) -> None:
    """Remove builders that dead processes left: those that ended by themselves, and those of our cache that
    nobody holds the lock for (a process makes and removes its builder while it holds it; we hold ``key``'s).
    """
    for found in engine.find(BUILDER_LABEL):
        labels = dict(found.labels)
        own = set(labels_of(library, key)) <= set(found.labels)
        if found.status == "exited" or own or is_abandoned(library, labels):
            engine.remove(found.id)


def is_abandoned(library: Library, labels: Mapping[str, str]) -> bool:
    """Whether a builder's labels say that it is of this cache and nobody holds the lock of its key any more."""
    key = labels.get(BUILDER_LABEL, "")
    if labels.get(_OWNER_LABEL) != library.cache_id:
        return False
    try:
        with library.lock_path(f"env-{key}").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
