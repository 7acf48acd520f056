"""HTTP/1.1 to a server at a Unix socket of this machine: one request, one answer, one connection (RFC 9112).

As much as container engines speak. Python's own client loads TLS and mail for it, which takes longer than the answers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress

_LINE = 1 << 16  # bytes of a line of an answer's head at most
_HEADERS = 200


class BadAnswer(Exception):
    """What came is not an answer, or not the whole of one."""


class Answer:
    """An answer whose head has come: its status, and its body to be read. Raises BadAnswer and OSError."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._source = line.makefile("rb")
        head = self._head_line().split(None, 2)
        if len(head) < 2 or not head[0].startswith(b"HTTP/1.") or not head[1].isdigit():
            raise BadAnswer(f"the answer begins with {b' '.join(head)[:60]!r}" if head else "it hung up")
        self.status = int(head[1])
        headers = self._headers()
        self._chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        length = headers.get(b"content-length", b"")
        # bytes until the end of the body, or of its present chunk; None: until the connection ends
        self._left: int | None = 0 if self._chunked else int(length) if length.isdigit() else None
        self._ended = self.status == 204
        self._first = True

    def _head_line(self) -> bytes:
        found = self._source.readline(_LINE)
        if found and not found.endswith(b"\n"):
            raise BadAnswer("the head of the answer broke off")
        return found

    def _headers(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for _ in range(_HEADERS):
            name, _, value = self._head_line().partition(b":")
            if not name.strip():
                return found
            found[name.strip().lower()] = value.strip()
        raise BadAnswer("the head of the answer has no end")

    def read(self, size: int = -1) -> bytes:
        """So many bytes of the body, fewer at its end; all of it without a number."""
        pieces, got = [], 0
        while size < 0 or got < size:
            piece = self.read1(1 << 16 if size < 0 else size - got)
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)

    def read1(self, size: int) -> bytes:
        """What has come of the body, up to so many bytes, as soon as there is any; nothing at its end."""
        if self._chunked and not self._left and not self._ended:
            self._next_chunk()
        if self._ended or self._left == 0:
            return b""
        piece = self._source.read1(size if self._left is None else min(size, self._left))
        if self._left is not None:
            if not piece:
                raise BadAnswer("the answer broke off")
            self._left -= len(piece)
        return piece

    def _next_chunk(self) -> None:
        if not self._first:
            self._head_line()
        self._first = False
        size = self._head_line().partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError as error:
            raise BadAnswer("the answer broke off") from error
        if self._left == 0:
            self._headers()  # trailers, of which none is known
            self._ended = True

    def patiently(self) -> None:
        """From now on its body may take any time."""
        self._line.settimeout(None)

    def descriptor(self) -> int:
        """The connection's."""
        return self._source.fileno()

    def close(self) -> None:
        """End the connection."""
        self._source.close()
        self._line.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def ask(
    path: str,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | Iterable[bytes],
    timeout: float | None,
) -> Answer:
    """Send a request, and give the answer. Bytes go at once, pieces in chunks; ``timeout``: seconds of silence."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(timeout)
        line.connect(path)
        whole = body if isinstance(body, bytes) else None
        length = "Transfer-Encoding: chunked" if whole is None else f"Content-Length: {len(whole)}"
        told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{told}{length}\r\n\r\n".encode("ascii")
        with suppress(BrokenPipeError, ConnectionResetError):  # it has answered already: that says why
            line.sendall(head + (whole or b""))
            if not isinstance(body, bytes):
                for piece in filter(None, body):
                    line.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                line.sendall(b"0\r\n\r\n")
        return Answer(line)
    except BaseException:
        line.close()
        raise
