"""A second process that reads, hashes and stages files of an intake: threads would wait for each other at every system call.

It is given open files, and says what it made of them; the intake names everything itself. Where it dies or was refused,
the intake does that file too: a helper changes how long it takes and nothing else.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from orchestrator import process
from orchestrator.digest import parse_digest
from orchestrator.ports import Ahead

MOST = 32  # files in one message; the kernel takes up to 253
LONGEST = 256 << 10  # bytes of a message
_PROGRAM = "import sys; sys.path[:] = sys.argv[4:]; from orchestrator.store.aside import work; work()"


class Helper:
    """The process as its starter sees it. ``staged`` hears of each file that it staged, asked for or not.

    Raises OSError where it cannot be started.
    """

    def __init__(self, place: str, link: bool, staged: set[str]) -> None:
        self._staged = staged
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [str(theirs.fileno()), place, "link" if link else "copy", *filter(None, sys.path)]
            try:
                self._process = process.start_beside(
                    [sys.executable, "-c", _PROGRAM, *words], theirs.fileno()
                )
            except BaseException:
                self._socket.close()
                raise
        self._asked = self._answered = 0
        self._dead = False

    @property
    def sent(self) -> int:
        """How many messages have no answer yet."""
        return self._asked - self._answered

    def send(self, files: Sequence[tuple[int, int]]) -> None:
        """Let it read these: at most MOST open files, with how many bytes of each."""
        message = {"number": self._asked, "sizes": [size for _, size in files]}
        self._asked += 1
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], [each for each, _ in files])
        except OSError:
            self._dead = True

    def answered(self) -> bool:
        """Whether an answer can be had without waiting."""
        return self._dead or bool(select.select([self._socket], [], [], 0)[0])

    def answer(self) -> list[Ahead | None]:
        """What it made of the files of the oldest message, None for what it did not; nothing where it died."""
        number = self._answered
        self._answered += 1
        data = b""
        if not self._dead:
            # Its end is told before the answers that it had sent: none of those may be taken for a later one.
            with suppress(OSError):
                data = self._socket.recv(LONGEST)
        item: dict[str, Any] = json.loads(data) if data else {}
        if item.get("number") != number:
            self._dead = True
            return []
        found = [_parsed(each) for each in item["made"]]
        self._staged.update(each[2] for each in found if each is not None and each[2] is not None)
        return found

    def close(self) -> None:
        """Let it end, after what it was told to do."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while self.sent:
            self.answer()
        self._socket.close()
        self._process.wait()


def _parsed(item: list[object] | None) -> Ahead | None:
    if item is None:
        return None
    digest, size, path, stamp = item
    assert isinstance(size, int)
    assert path is None or isinstance(path, str)
    return (
        parse_digest(digest),
        size,
        path,
        (int(stamp[0]), int(stamp[1])) if isinstance(stamp, list) else None,
    )
