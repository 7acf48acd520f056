"""Writes to a terminal (or a pipe) from a thread of its own: whoever is slow to read never stops the run.

What the run's workflow wrote is dropped where too much waits, with a count; Mirage's own lines nearly never are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

# Bytes that may wait: of the workflow's output, and of everything.
LOG_ROOM = 4 << 20
ROOM = 8 << 20
# Seconds without progress after which the rest is given up when the program ends.
PATIENCE = 2.0
_PIECE = 64 << 10  # one write: what a reader that goes away can keep us at


def _note(dropped: int) -> bytes:
    return f"\n[mirage: {dropped} bytes are not shown here; `mirage logs` has them]\n".encode()


class Screen:
    """Bytes on their way to a stream; nothing here ever blocks its caller but ``settle``, for a bounded time."""

    def __init__(self, stream: TextIO, told: Callable[[int], bytes] | None = None) -> None:
        """``told`` gives the words for so many bytes that were dropped."""
        self._stream = stream
        self._told = told or _note
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._broken = False
        self._written = 0
        self._busy = False

    def put(self, data: bytes, *, log: bool = False) -> None:
        """Show bytes as soon as the reader takes them; ``log``: they may be dropped, the spool has them."""
        with self._changed:
            if self._broken or not data:
                return
            if self._size + len(data) > (LOG_ROOM if log else ROOM):
                self._dropped += len(data)
                return
            if self._dropped and self._size < LOG_ROOM // 2:
                note = self._told(self._dropped)
                self._dropped = 0
                self._add(note)
            elif self._dropped and log:  # nothing in the middle of a gap
                self._dropped += len(data)
                return
            self._add(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _add(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                data = self._waiting.popleft()
                self._size -= len(data)
                self._busy = True
            try:
                for at in range(0, len(data), _PIECE):
                    self._stream.buffer.write(data[at : at + _PIECE])
                    self._stream.flush()
                    self._written += 1
            except (OSError, ValueError):  # a closed terminal must not end the run
                with self._changed:
                    self._broken = True
                    self._waiting.clear()
                    self._size = 0
                    self._busy = False
                    self._changed.notify_all()
                return

    def settle(self) -> bool:
        """Wait until all is shown, as long as the reader takes something; gives whether it is.

        After it, other writers of the same stream come behind what was put here.
        """
        with self._changed:
            if self._dropped:
                self._add(self._told(self._dropped))
                self._dropped = 0
                self._changed.notify_all()
            seen = -1
            while (self._waiting or self._busy) and seen != self._written:
                seen = self._written
                self._changed.wait_for(lambda: not (self._waiting or self._busy), timeout=PATIENCE)
            return not (self._waiting or self._busy or self._broken)
