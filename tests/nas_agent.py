"""What runs in a guest of tests/nas_guests.py: carries out commands that come over TCP. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import threading
from pathlib import Path

PORT = 7007
ROOM = 200_000  # bytes of output that go back, the last ones


class Command(socketserver.StreamRequestHandler):
    """One connection: a line of JSON {argv, env, seconds, uid} comes, a line of JSON {code, out, err} goes."""

    def handle(self) -> None:
        """Do what is said; a caller who goes away ends it, and so does its time."""
        asked = json.loads(self.rfile.readline() or b"null")
        if asked is None:
            return
        name = f"/run/{threading.get_ident()}"
        with open(f"{name}.out", "wb") as out, open(f"{name}.err", "wb") as err:
            process = subprocess.Popen(
                asked["argv"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **asked["env"]},
                user=asked["uid"],
                start_new_session=True,
            )
        over = threading.Timer(asked["seconds"], self._end, (process,))
        over.start()
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        code = process.wait()
        over.cancel()
        told = {
            key: Path(f"{name}.{key}").read_bytes()[-ROOM:].decode(errors="replace") for key in ("out", "err")
        }
        self.wfile.write(json.dumps({"code": code, **told}).encode() + b"\n")

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        if not self.connection.recv(1):
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class Server(socketserver.ThreadingTCPServer):
    """Each connection has its thread."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Server(("0.0.0.0", PORT), Command) as server:
        server.serve_forever()
