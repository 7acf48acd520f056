"""A git server on this machine's loopback (git's smart HTTP, gitprotocol-http(5)), which may ask for a login."""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class GitServer:
    """Serves the bare repositories of a folder for reading; ``login`` is `user:password` where it asks for one."""

    def __init__(self, folder: Path, login: str = "") -> None:
        self.folder = folder
        self.login = login
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        """Its address without a login."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> GitServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                head = b"001e# service=git-upload-pack\n0000"
                self._pack("advertisement", ("--advertise-refs",), b"", head)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                self._pack("result", (), body, b"")

            def _pack(self, kind: str, words: tuple[str, ...], body: bytes, head: bytes) -> None:
                login = "Basic " + base64.b64encode(server.login.encode()).decode()
                if server.login and self.headers.get("Authorization") != login:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="git"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                server.asked.append(self.path)
                path = server.folder / urlsplit(self.path).path.strip("/").partition("/")[0]
                protocol = self.headers.get("Git-Protocol", "")
                done = subprocess.run(
                    ["git", "-c", "safe.directory=*", "upload-pack", "--stateless-rpc", *words, str(path)],
                    input=body,
                    env={**os.environ, "GIT_PROTOCOL": protocol},
                    capture_output=True,
                )
                answer = (head if "version=2" not in protocol else b"") + done.stdout
                self.send_response(200)
                self.send_header("Content-Type", f"application/x-git-upload-pack-{kind}")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
