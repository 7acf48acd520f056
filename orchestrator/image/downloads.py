"""How much of packages has come to a builder, for whoever waits for it.

The installer tells nothing of it where it has no terminal, and what it has already in its cache it does not fetch. So it
is the bytes that the engine saw come to the builder's container; of one on the host's network it sees none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.ports import Engine, Reporter
from orchestrator.progress import Meter

STEP = "download packages"
# Seconds between two questions to the engine, and before the first: most installations are over by then.
EVERY = 1.0
# Less than this is an index, not a package.
_NOTICEABLE = 1 << 20


@contextmanager
def told(engine: Engine, container: str, reporter: Reporter) -> Iterator[None]:
    """Tell, while this is entered, how many bytes came to a container that fetches packages."""
    over = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(engine, container, reporter, over), name="downloads", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(engine: Engine, container: str, reporter: Reporter, over: threading.Event) -> None:
    meter: Meter | None = None
    with ExitStack() as stack:
        while not over.wait(EVERY):
            came = engine.received(container)
            if came is None:
                return
            if meter is None and came >= _NOTICEABLE:
                meter = stack.enter_context(Meter(reporter, STEP))
            if meter is not None:
                meter.at(came, None)
