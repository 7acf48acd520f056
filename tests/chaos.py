"""A proxy before an S3 server that misbehaves in a share of all requests, as networks and servers do."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("reset", "lost reply", "hang", "truncate", "500", "503", "200 with an error", "late 500")
SILENCE = 2.5  # seconds of a hang: longer than the clients of these tests wait


def error_body(code: str, message: str = "from the proxy") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    ).encode()


def upstream(endpoint: str) -> tuple[str, int]:
    """The host and port of a server."""
    where = urlsplit(endpoint)
    assert where.hostname is not None and where.port is not None
    return where.hostname, where.port


class Chaos(ThreadingHTTPServer):
    """The proxy; ``share`` of the requests meet a fault, ``canned`` may answer one itself: (status, body)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, endpoint: str, share: float, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream(endpoint)
        self.share = share
        self.faults: tuple[str, ...] = FAULTS
        self.said: dict[str, str] = {}  # headers that answers have instead of the server's own
        self.canned: Callable[[_Handler], tuple[int, bytes] | None] = lambda _: None
        # the fault that a request meets in any case
        self.planted: Callable[[_Handler], str | None] = lambda _: None
        self.met: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str) -> str | None:
        with self._lock:
            self.requests[method] += 1
            if self._random.random() >= self.share:
                return None
            fault = self._random.choice(self.faults)
            self.met[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: broken connections are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Chaos
    _there: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: object) -> None: ...

    def _serve(self) -> None:
        fault = self.server.planted(self) or self.server.fault(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        canned = self.server.canned(self)
        if canned is not None:
            self._answer(*canned)
        elif fault == "reset":
            self._reset()
        elif fault == "hang":
            time.sleep(SILENCE)
            self._reset()
        elif fault == "500":
            self._answer(500, error_body("InternalError"))
        elif fault == "503":
            self._answer(503, error_body("SlowDown"))
        elif fault == "200 with an error":
            self._answer(200, error_body("InternalError"))
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _forward(self, body: bytes, fault: str | None) -> None:
        there = self._there
        if there is None or (there.host, there.port) != self.server.upstream:
            there = self._there = http.client.HTTPConnection(*self.server.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        there.request(self.command, self.path, body=body or None, headers=headers)
        found = there.getresponse()
        data = found.read()
        if fault == "lost reply":
            self._reset()
        elif fault == "late 500":
            self._answer(500, error_body("InternalError"))
        else:
            self.send_response_only(found.status)
            for name, value in found.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, self.server.said.get(name, value))
            length = found.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault in ("truncate", "half") else data)
            self.close_connection = (
                self.close_connection or fault == "half"
            )  # with FIN: what was sent arrives
            if fault == "truncate":
                self.wfile.flush()
                self._reset()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        """Close with RST, which the other side cannot take for the end of an answer."""
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


@contextmanager
def chaos(endpoint: str, share: float = 0.1, seed: int = 0) -> Iterator[Chaos]:
    """Run the proxy in threads."""
    server = Chaos(endpoint, share, seed)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
