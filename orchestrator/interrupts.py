"""Ctrl-C and its like while a run is open: the first asks, the second insists, the third leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from orchestrator.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts Ctrl-C and SIGTERM while it is entered; ``by`` is the first one's name, or None for Ctrl-C."""

    def __init__(self) -> None:
        self.count = 0
        self.by: str | None = None
        self._before: dict[int, Any] = {}
        self._leave_at: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def leaving_at(self, count: int) -> Iterator[None]:
        """While this is entered, the interrupt with that number raises Interrupted, wherever the main thread is."""
        before, self._leave_at = self._leave_at, count
        try:
            if self.count >= count:
                raise Interrupted("interrupted")
            yield
        finally:
            self._leave_at = before

    def _seen(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1 and number != signal.SIGINT:
            self.by = signal.Signals(number).name
        if self._leave_at is not None and self.count >= self._leave_at:
            raise Interrupted("interrupted")


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Before a run is open, SIGTERM and SIGHUP end the work as Ctrl-C does: by KeyboardInterrupt."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, signal.default_int_handler) for each in SIGNALS[1:]}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
