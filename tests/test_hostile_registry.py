"""A registry that somebody hostile runs: answers without an end, redirects and realms that lead elsewhere, other bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.executors import registry
from orchestrator.executors.registry import Registry, RegistryError

ABSENT = of_bytes(b"a layer")
Answer = Callable[[BaseHTTPRequestHandler], None]


class Hostile:
    """A server on loopback that answers as it is told, and notes what it is asked."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[tuple[str, str, str]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                with suppress(ConnectionError):
                    if self.path == "/v2/":
                        reply(self, 200, b"{}")
                    else:
                        answer(self)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(handler: BaseHTTPRequestHandler, code: int, body: bytes, **headers: str) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def endless(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * (1 << 20))

    return answer


def leading_to(url: str, code: int = 307) -> Answer:
    return lambda handler: reply(handler, code, b"", Location=url)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_pause", lambda attempt, answer: None)


def ask(server: Hostile, what: Callable[[Registry], Any]) -> Any:
    found = Registry(f"{server.host}/team/image")
    try:
        return what(found)
    finally:
        found.close()


@pytest.mark.parametrize("code", [200, 400, 401, 500])
def test_an_answer_without_an_end_is_left(code: int) -> None:
    with Hostile(endless(code)) as server, pytest.raises(RegistryError):
        ask(server, lambda of: of.manifest("v1"))


def test_a_layer_is_taken_up_to_its_size() -> None:
    with Hostile(endless(200)) as server, pytest.raises(RegistryError, match="more than the 5000000 bytes"):
        ask(server, lambda of: sum(map(len, of.blob(ABSENT, 5_000_000))))


def test_other_bytes_are_not_the_layer() -> None:
    other = Hostile(lambda handler: reply(handler, 200, b"another"))
    with other as server, pytest.raises(RegistryError, match="other bytes"):
        ask(server, lambda of: list(of.blob(ABSENT, 100)))


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/meta-data", "http://example.org/x", "ftp://example.org/x"]
)
def test_nothing_leads_to_an_address_that_only_this_machine_can_ask(url: str) -> None:
    with Hostile(leading_to(url)) as server, pytest.raises(RegistryError):
        ask(server, lambda of: of.manifest("v1"))
    with Hostile(leading_to(url, 202)) as server, pytest.raises(RegistryError, match="which is not TLS"):
        ask(server, lambda of: of.put(ABSENT, 7, lambda: iter((b"a layer",))))


def test_a_registry_by_tls_does_not_lead_to_loopback() -> None:
    with pytest.raises(Exception, match="not TLS"):
        registry._check_address("http://127.0.0.1:8080/admin", after="https://registry.example.org/v2/")
    registry._check_address("https://blobs.example.org/x", after="https://registry.example.org/v2/")


def test_a_login_goes_to_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_login", lambda host: ("me", "sesame"))
    with Hostile(lambda handler: reply(handler, 200, b"{}")) as other:
        basic = {"WWW_Authenticate": "Basic"}

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if not handler.headers.get("Authorization"):
                reply(handler, 401, b"", **basic)
            else:
                reply(handler, 307, b"", Location=f"http://localhost:{other.server.server_port}/blob")

        with Hostile(answer) as server, suppress(RegistryError):
            ask(server, lambda of: list(of.blob(ABSENT, 100)))
        assert [path for _, path, _ in other.asked] == ["/blob"]
        assert [login for _, _, login in other.asked if login] == []
    realm = 'Bearer realm="http://example.org/token",service="x"'
    elsewhere = Hostile(lambda handler: reply(handler, 401, b"", WWW_Authenticate=realm))
    with elsewhere as server, pytest.raises(RegistryError, match="does not let you"):
        ask(server, lambda of: of.manifest("v1"))


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[]", b"{}", b"null", b'{"token": 5}', b"\xff"])
def test_a_token_that_is_none_is_none(body: bytes) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/token"):
            reply(handler, 200, body)
        else:
            realm = f'Bearer realm="http://{handler.headers["Host"]}/token"'
            reply(handler, 401, b"", WWW_Authenticate=realm)

    with Hostile(answer) as server, pytest.raises(RegistryError):
        ask(server, lambda of: of.manifest("v1"))


def test_a_digest_of_a_header_is_compared_and_no_path() -> None:
    told = "sha256:../../../etc/passwd"
    with Hostile(lambda handler: reply(handler, 200, b"", Docker_Content_Digest=told)) as server:
        assert ask(server, lambda of: of.digest_of("v1")) != Digest(ABSENT)
