"""Docker's API over an engine's own socket: the calls that every run makes.

Docker's library takes longer to load than all of them to be answered; it still makes every other call, and speaks to
engines that are reached otherwise (docker_library.py). The calls have its names. Each has a connection of its own.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

from orchestrator.executors import socket_http
from orchestrator.executors.docker_json import frames
from orchestrator.executors.socket_http import Answer, BadAnswer

_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
_JSON = {"Content-Type": "application/json"}
_TAR = {"Content-Type": "application/x-tar"}
_PIECE = 1 << 16
_USUAL = -1.0


class Refused(Exception):
    """The engine answered that it does not do it: the HTTP status, and why in its own words."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status
        self.explanation = explanation


class Broken(Exception):
    """The engine cannot be reached, went away, or said nothing in time."""


class SocketApi:
    """The engine at a Unix socket; ``timeout`` is for silence, in seconds; ``library`` makes all other calls.

    Every call raises Refused and Broken.
    """

    def __init__(self, path: str, timeout: float, library: Callable[[str], Any], version: str = "") -> None:
        self._path = path
        self._timeout = timeout
        self._version = version
        self._make_library = library
        self._library: Any = None
        self._told: dict[str, Any] = {}
        if not version:
            self._told = self._json("GET", "/version", versioned=False)
            self._version = str(self._told.get("ApiVersion") or "")
            if not self._version:
                raise Broken("it does not say which version of the API it has")

    def __getattr__(self, name: str) -> Any:
        if self._library is None:
            self._library = self._make_library(self._version)
        return getattr(self._library, name)

    @property
    def api_version(self) -> str:
        """The newest version of the API that the engine speaks, which all calls use."""
        return self._version

    def version(self) -> dict[str, Any]:
        """What it said of itself when it was met."""
        return self._told or dict(self._json("GET", "/version"))

    def info(self) -> dict[str, Any]:
        """The rest of what it says of itself."""
        return dict(self._json("GET", "/info"))

    def ping(self) -> None:
        """A sign of life."""
        self._done("GET", "/_ping", versioned=False)

    def inspect_image(self, image: str) -> dict[str, Any]:
        """An image."""
        return dict(self._json("GET", f"/images/{_quoted(image)}/json"))

    def load_image(self, archive: Iterable[bytes], *, quiet: bool) -> Iterator[dict[str, Any]]:
        """Load an archive, sent as it is made; gives what the engine says meanwhile."""
        answer = self._ask("POST", "/images/load", {"quiet": int(quiet)}, body=archive, headers=_TAR)
        with answer, _unbroken():
            rest = ""
            while piece := answer.read1(_PIECE):
                rest += piece.decode("utf-8", "replace")
                told, rest = _objects(rest)
                yield from told
            if rest.strip():
                raise Broken(f"it ended in the middle of what it said: {rest[-200:]}")

    def create_container_from_config(self, config: Mapping[str, Any], name: str | None = None) -> Any:
        """Create a container; the answer has its `Id`."""
        body = json.dumps({key: value for key, value in config.items() if value is not None}).encode()
        params = {"name": name} if name else {}
        return self._json("POST", "/containers/create", params, body=body, headers=_JSON)

    def start(self, container: str) -> None:
        """Start a container."""
        self._done("POST", f"/containers/{_quoted(container)}/start")

    def attached(self, container: str) -> Iterator[tuple[str, bytes]]:
        """A container's output from now on, as (stream, bytes); attached when this returns."""
        asked = {"logs": 0, "stdout": 1, "stderr": 1, "stream": 1}
        path = f"/containers/{_quoted(container)}/attach"
        return _followed(self._ask("POST", path, asked, headers=_UPGRADE, patient=True))

    def followed_log(self, container: str, params: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """A container's log as the engine kept it."""
        return _followed(self._ask("GET", f"/containers/{_quoted(container)}/logs", params, patient=True))

    def plug(self, container: str) -> socket.socket:
        """A container's standard input, as a socket."""
        path, asked = f"/containers/{_quoted(container)}/attach", {"stdin": 1, "stream": 1}
        answer = self._ask("POST", path, asked, headers=_UPGRADE, patient=True)
        with answer:
            return socket.socket(fileno=os.dup(answer.descriptor()))

    def wait(self, container: str, timeout: float | None = None) -> Any:
        """Answered when the container does not run any more."""
        return self._json("POST", f"/containers/{_quoted(container)}/wait", timeout=timeout)

    def inspect_container(self, container: str) -> dict[str, Any]:
        """A container."""
        return dict(self._json("GET", f"/containers/{_quoted(container)}/json"))

    def stop(self, container: str, timeout: int) -> None:
        """SIGTERM, and SIGKILL after ``timeout`` seconds."""
        patience = self._timeout + timeout
        self._done("POST", f"/containers/{_quoted(container)}/stop", {"t": timeout}, timeout=patience)

    def kill(self, container: str) -> None:
        """SIGKILL."""
        self._done("POST", f"/containers/{_quoted(container)}/kill")

    def remove_container(self, container: str, *, force: bool, v: bool) -> None:
        """Remove a container, with its own volumes where ``v``."""
        self._done("DELETE", f"/containers/{_quoted(container)}", {"force": int(force), "v": int(v)})

    def containers(self, *, all: bool, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        """The containers that a filter leaves."""
        told = json.dumps({name: [value] for name, value in filters.items()})
        return list(self._json("GET", "/containers/json", {"all": int(all), "filters": told}))

    def close(self) -> None:
        """Nothing is kept open."""

    def _json(self, method: str, path: str, params: Mapping[str, Any] | None = None, **more: Any) -> Any:
        with self._ask(method, path, params or {}, **more) as answer, _unbroken():
            return json.loads(answer.read())

    def _done(self, method: str, path: str, params: Mapping[str, Any] | None = None, **more: Any) -> None:
        with self._ask(method, path, params or {}, **more) as answer, _unbroken():
            answer.read()

    def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        *,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float | None = _USUAL,
        versioned: bool = True,
        patient: bool = False,
    ) -> Answer:
        """An answer whose head says that all is well. ``patient``: its body may take any time."""
        asked = f"{f'/v{self._version}' if versioned else ''}{path}"
        target = f"{asked}?{urlencode(params)}" if params else asked
        silence = self._timeout if timeout == _USUAL else timeout
        with _unbroken():
            answer = socket_http.ask(self._path, method, target, headers or {}, body, silence)
            if answer.status >= 400:
                with answer:
                    raise Refused(answer.status, _explanation(answer.read()))
            if patient:
                answer.patiently()
            return answer


def _followed(answer: Answer) -> Iterator[tuple[str, bytes]]:
    with answer, _unbroken():
        yield from frames(answer.read)


def _objects(text: str) -> tuple[list[dict[str, Any]], str]:
    """The JSON objects at the start of a text, and what is left of it."""
    found, decoder = [], json.JSONDecoder()
    text = text.lstrip()
    while text:
        try:
            told, end = decoder.raw_decode(text)
        except ValueError:
            break
        found.append(told)
        text = text[end:].lstrip()
    return found, text


def _explanation(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["message"])
    return text


def _quoted(name: str) -> str:
    return quote(name, safe="/:")


class _unbroken:
    """What a connection can do, as Broken."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, TimeoutError):
            raise Broken("it said nothing for too long") from error
        if isinstance(error, (OSError, BadAnswer, ValueError)):
            raise Broken(str(error) or type(error).__name__) from error
