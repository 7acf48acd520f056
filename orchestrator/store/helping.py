"""A second process that reads and writes files for this one: threads would wait for each other at every system call.

It is given open files, and says what it made of them; its starter names everything itself. Where it dies, or was refused
something, the starter does that file too: a helper changes how long it takes and nothing else.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from orchestrator import process
from orchestrator.digest import Digest, parse_digest
from orchestrator.ports import Ahead, Helper

MOST = 32  # open files in one message; the kernel takes up to 253
LONGEST = 256 << 10  # bytes of a message
# After so many files a helper takes part: its start costs as much as 1,000 small files do. It has up to AHEAD batches, so
# that it always has one to go on with.
ALONE = 400
AHEAD, BATCH = 4, 16
_PROGRAM = "import sys; sys.path[:] = sys.argv[4:]; from orchestrator.store.aside import work; work()"


class Waiting(Protocol):
    """A file that waits for its turn: what is open of it, and how many bytes it has."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """At most two."""

    @property
    def size(self) -> int:
        """In bytes."""


_T = TypeVar("_T", bound=Waiting)
_A = TypeVar("_A")


class Together(Generic[_T, _A]):
    """Files done by this process and, where they are many, a helper: in small batches, so that both end at one time.

    ``start`` starts the helper, if one can be had; ``do`` is told what the helper made of a file, or None where this
    process is to do it.
    """

    def __init__(self, start: Callable[[], Helper[_A] | None], do: Callable[[_T, _A | None], object]) -> None:
        self._start = start
        self._do = do
        self._alone = ALONE
        self._helper: Helper[_A] | None = None
        self._batch: list[_T] = []
        self._sent: deque[list[_T]] = deque()  # to the helper, which has not answered yet

    def add(self, file: _T) -> None:
        """One more; some are done by this."""
        self._batch.append(file)
        if len(self._batch) >= BATCH:
            self._work()

    def finish(self) -> None:
        """Do all that were added."""
        self._work()
        while self._sent:
            self._settle()

    def close(self) -> None:
        """End the helper, whatever was done."""
        if self._helper is not None:
            self._helper.close()

    def _work(self) -> None:
        batch, self._batch = self._batch, []
        if self._alone > 0:
            self._alone -= len(batch)
            if self._alone <= 0:
                self._helper = self._start()
        while self._helper is not None and self._sent and self._helper.answered():
            self._settle()
        if self._helper is not None and batch and self._helper.sent < AHEAD:
            self._helper.send([(each.descriptors, each.size) for each in batch])
            self._sent.append(batch)
            return
        for each in batch:
            self._do(each, None)

    def _settle(self) -> None:
        assert self._helper is not None
        batch, answer = self._sent.popleft(), self._helper.answer()
        for number, each in enumerate(batch):
            made = answer[number] if number < len(answer) else None
            if made is None:  # it could not: we can, or say why; what it read moved our position too
                os.lseek(each.descriptors[0], 0, os.SEEK_SET)
            self._do(each, made)


class _Beside:
    """The process as its starter sees it. Raises OSError where it cannot be started."""

    def __init__(self, place: str, what: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [str(theirs.fileno()), place, what, *filter(None, sys.path)]
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

    def send(self, files: Sequence[tuple[Sequence[int], int]]) -> None:
        """Give it open files, at most MOST in all; ``files``: what is open of each, and how many bytes it has."""
        self._send({"sizes": [size for _, size in files]}, [each for some, _ in files for each in some])

    def _send(self, message: dict[str, list[int]], descriptors: Sequence[int]) -> None:
        data = json.dumps({"number": self._asked, **message}).encode()
        self._asked += 1
        try:
            socket.send_fds(self._socket, [data], descriptors)
        except OSError:
            self._dead = True

    def answered(self) -> bool:
        """Whether an answer can be had without waiting."""
        return self._dead or bool(select.select([self._socket], [], [], 0)[0])

    def _answer(self) -> list[Any]:
        """What it made of the files of the oldest message; nothing where it died."""
        number, data = self._answered, b""
        if not self._dead:
            # Its end is told before the answers that it had sent: none of those may be taken for a later one.
            with suppress(OSError):
                data = self._socket.recv(LONGEST)
        self._answered += 1  # not before: an interrupt leaves it to be read by ``close``
        item: dict[str, Any] = {}
        with suppress(ValueError):  # longer than may be, so cut off
            item = json.loads(data) if data else {}
        if item.get("number") != number:
            self._dead = True
            return []
        return list(item["made"])

    def close(self) -> None:
        """Let it end, after what it was told to do."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while self.sent:
            self._answer()
        self._socket.close()
        self._process.wait()


class Taker(_Beside):
    """Reads, hashes and stages files of an intake. ``staged`` hears of each file that it staged, asked for or not."""

    def __init__(self, place: str, link: bool, staged: set[str]) -> None:
        self._staged = staged
        super().__init__(place, "link" if link else "copy")

    def unpack(self, descriptor: int, places: Sequence[tuple[int, int]]) -> None:
        """Give it one open file that has many: where each begins in it, and how many bytes it has."""
        self._send(
            {"starts": [start for start, _ in places], "sizes": [size for _, size in places]}, [descriptor]
        )

    def answer(self) -> list[Ahead | None]:
        """What it made of the files of the oldest message, None for what it did not; nothing where it died."""
        return self._answer()

    def _answer(self) -> list[Ahead | None]:
        found = [_parsed(each) for each in super()._answer()]
        self._staged.update(each[2] for each in found if each is not None and each[2] is not None)
        return found


class Copier(_Beside):
    """Copies files: of each it is given the one to read and the one to write."""

    def __init__(self) -> None:
        super().__init__("", "out")

    def answer(self) -> list[Digest | None]:
        """The digests of what it wrote, None for what it did not; nothing where it died."""
        return [None if each is None else parse_digest(each) for each in self._answer()]


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
