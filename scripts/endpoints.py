"""Whether a Docker-compatible engine answers where it may listen (a real ``GET /_ping``).

Where that is, is orchestrator/executors/endpoint.py's, which needs the standard library only, as this does.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.executors.endpoint import DEFAULT, Endpoint, candidates

__all__ = ["DEFAULT", "Answer", "Endpoint", "ask", "candidates"]


@dataclass(frozen=True)
class Answer:
    """What an endpoint said: a version, or why there was none (``denied``: the socket is not ours)."""

    endpoint: Endpoint
    version: str | None
    reason: str = ""
    denied: bool = False


def ask(endpoint: Endpoint, timeout: float = 5.0) -> Answer:
    """Ping an engine and ask its version; whatever goes wrong is the answer's reason, never an exception."""
    try:
        status, _ = get(endpoint, "/_ping", timeout)
        if status != 200:
            return Answer(endpoint, None, f"answers /_ping with {status}")
        status, body = get(endpoint, "/version", timeout)
        version = json.loads(body).get("Version", "") if status == 200 else ""
        return Answer(endpoint, str(version) or "unknown version")
    except PermissionError:
        return Answer(endpoint, None, "its socket is there, but you may not open it", denied=True)
    except FileNotFoundError:
        return Answer(endpoint, None, "no such socket")
    except ConnectionRefusedError:
        return Answer(endpoint, None, "nothing listens there")
    except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
        return Answer(endpoint, None, str(error) or type(error).__name__)


def get(endpoint: Endpoint, path: str, timeout: float) -> tuple[int, bytes]:
    """One GET over the endpoint's own transport: unix, tcp (with TLS where set up), http(s) or ssh."""
    parts = urlsplit(endpoint.url)
    if parts.scheme == "ssh":
        return over_ssh(parts.netloc, path, timeout)
    connection: http.client.HTTPConnection
    if parts.scheme == "unix":
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(parts.netloc + parts.path)
    elif parts.scheme in ("tcp", "http", "https") and parts.hostname:
        if endpoint.tls or parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                parts.hostname,
                parts.port or 2376,
                timeout=timeout,
                context=tls_context(endpoint.certificates),
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=timeout)
    else:
        raise ValueError(f"not an engine's address: {endpoint.url!r} (expected unix://, tcp:// or ssh://)")
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1 << 20)
    finally:
        connection.close()
        if connection.sock is not None:
            connection.sock.close()


def tls_context(certificates: str | None) -> ssl.SSLContext:
    """TLS as the docker CLI sets it up: ca.pem, cert.pem and key.pem, as far as they are there."""
    folder = Path(certificates or "/nonexistent")
    authority, mine, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    context = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
    if mine.exists() and key.exists():
        context.load_cert_chain(mine, key)
    return context


def over_ssh(host: str, path: str, timeout: float) -> tuple[int, bytes]:
    """One GET the way the docker CLI goes over ssh: through ``docker system dial-stdio`` over there."""
    target, _, port = host.partition(":")
    program = shutil.which("ssh")
    if program is None:
        raise OSError("there is no ssh program to reach it with")
    words = [program, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(timeout)}"]
    words += ["-p", port] if port else []
    request = f"GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n".encode()
    try:
        done = subprocess.run(
            [*words, "--", target, "docker", "system", "dial-stdio"],
            input=request,
            capture_output=True,
            timeout=3 * timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer over ssh within {3 * timeout:.0f} s") from error
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    words_of_head = head.split(maxsplit=2)
    if len(words_of_head) < 2 or not words_of_head[1].isdigit():
        raise OSError(done.stderr.decode("utf-8", "replace").strip()[-300:] or "no answer over ssh")
    return int(words_of_head[1]), body
