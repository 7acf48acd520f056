"""A registry over HTTP (OCI distribution-spec 1.1): blobs and manifests by digest, there and back.

Logins are docker's own: config.json and its credential helpers. Decides neither what is pushed nor where to.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import docker.auth
import docker.errors
import requests
from requests.utils import parse_dict_header

from orchestrator.digest import CHUNK, Digest, of_bytes, of_hasher
from orchestrator.errors import ImageError

_TIMES = (10, 120)  # seconds: to connect, and for silence
_ATTEMPTS = 4
_AGAIN = (429, 500, 502, 503, 504)
_LONGEST_PAUSE = 20.0
_LARGEST_MANIFEST = 4 << 20  # distribution-spec, "Pushing Manifests": registries take at least this
_HUB = (
    "docker.io",
    "registry-1.docker.io",
)  # what a reference without a registry means, and where that answers


class RegistryError(ImageError):
    """A registry refused, or did not answer."""


class _Session(requests.Session):
    """Follows redirects, as registries send to where blobs lie; never to plain HTTP but on this machine's loopback,
    and not there from elsewhere: a registry could otherwise have this machine ask what only it can reach.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The next address, where it may be asked. Raises requests' InvalidURL."""
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            _check_address(urljoin(resp.url, target), after=resp.url)
        return target


def _check_address(url: str, *, after: str) -> None:
    plain = urlsplit(url).scheme != "https"
    if plain and (urlsplit(after).scheme == "https" or not _is_loopback(urlsplit(url).netloc)):
        raise requests.exceptions.InvalidURL(f"{after} leads to {url[:200]}, which is not TLS")


def _read(answer: requests.Response) -> bytes:
    """The body of an answer that is no blob. Raises requests' errors where it is too large for one."""
    data = b""
    for piece in answer.iter_content(CHUNK):
        data += piece
        if len(data) > _LARGEST_MANIFEST:
            answer.close()
            raise requests.exceptions.ContentDecodingError(f"more than {_LARGEST_MANIFEST} bytes")
    return data


class _Body:
    """A blob to send: with a known length, and from its start again where a try failed."""

    def __init__(self, size: int, read: Callable[[], Iterator[bytes]]) -> None:
        self._size = size
        self._read = read

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._read()


class Registry:
    """One repository of a registry. Every call raises RegistryError; a busy registry is asked again a few times."""

    def __init__(self, repository: str) -> None:
        self.name = repository
        try:
            self._host, self._path = docker.auth.resolve_repository_name(repository)
        except docker.errors.InvalidRepository as error:
            raise RegistryError(f"{repository}: {error}", hint="expected HOST/NAME") from error
        self._session = _Session()
        self._session.headers["User-Agent"] = "mirage"
        self._login = _login(self._host)
        self._token = ""
        self._base = ""

    def digest_of(self, reference: str) -> Digest | None:
        """What the registry calls a manifest, by its tag or digest; None where it has none."""
        answer = self._ask("HEAD", f"manifests/{reference}", ok=(200, 404), headers=_ACCEPT)
        if answer.status_code == 404:
            return None
        told = answer.headers.get("Docker-Content-Digest")
        return Digest(told) if told else of_bytes(self.manifest(reference))

    def manifest(self, reference: str) -> bytes:
        """A manifest's bytes."""
        answer = self._ask("GET", f"manifests/{reference}", ok=(200,), headers=_ACCEPT, stream=True)
        with _read_from(self.name), answer:
            return _read(answer)

    def has(self, digest: Digest) -> bool:
        """Whether it has a blob."""
        return self._ask("HEAD", f"blobs/{digest}", ok=(200, 404)).status_code == 200

    def blob(self, digest: Digest, most: int) -> Iterator[bytes]:
        """A blob's bytes; RegistryError at the end where they were not what the digest says, and after ``most`` bytes."""
        answer = self._ask("GET", f"blobs/{digest}", ok=(200,), stream=True)
        hasher, left = hashlib.sha256(), most
        with _read_from(self.name), answer:
            for piece in answer.iter_content(CHUNK):
                left -= len(piece)
                if left < 0:
                    raise RegistryError(f"{self.name} sends more than the {most} bytes of {digest}")
                hasher.update(piece)
                yield piece
        if of_hasher(hasher) != digest:
            raise RegistryError(
                f"{self.name} sent other bytes than {digest}", hint="try again, or push it anew"
            )

    def put(self, digest: Digest, size: int, read: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob in one piece (distribution-spec, "POST then PUT")."""
        for attempt in range(_ATTEMPTS):
            begun = self._ask("POST", "blobs/uploads/", ok=(202,))
            target = urljoin(begun.url, begun.headers["Location"])
            with _read_from(self.name):
                _check_address(target, after=self._base)
            target += ("&" if urlsplit(target).query else "?") + f"digest={digest}"
            answer = self._send("PUT", target, _Body(size, read))
            if answer is not None and answer.status_code == 201:
                return
            if answer is not None and answer.status_code not in _AGAIN:
                raise self._refused("PUT", "a blob", answer)
            if attempt + 1 < _ATTEMPTS:
                _pause(attempt, answer)
        raise RegistryError(
            f"{self.name} does not take {digest}", hint="is it full, or the network unstable?"
        )

    def put_manifest(self, reference: str, data: bytes, kind: str) -> None:
        """Name a manifest whose blobs are there."""
        self._ask("PUT", f"manifests/{reference}", ok=(201,), headers={"Content-Type": kind}, data=data)

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def _ask(
        self,
        method: str,
        path: str,
        *,
        ok: tuple[int, ...],
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        stream: bool = False,
    ) -> requests.Response:
        url = f"{self._found()}/v2/{self._path}/{path}"
        answer: requests.Response | None = None
        for attempt in range(_ATTEMPTS):
            answer = self._send(method, url, data, headers=headers, stream=stream)
            if answer is not None and answer.status_code == 401 and self._authorise(answer):
                answer = self._send(method, url, data, headers=headers, stream=stream)
            if answer is not None and answer.status_code in ok:
                return answer
            if answer is not None and answer.status_code not in _AGAIN:
                raise self._refused(method, path, answer)
            if attempt + 1 < _ATTEMPTS:
                _pause(attempt, answer)
        if answer is not None:
            raise self._refused(method, path, answer)
        raise RegistryError(
            f"the registry {self._host} does not answer", hint="check its name, the network and the proxy"
        )

    def _send(
        self,
        method: str,
        url: str,
        data: bytes | _Body | None,
        *,
        headers: dict[str, str] | None = None,
        stream: bool = False,
    ) -> requests.Response | None:
        """One request; None where the connection failed. The login goes to the registry's own host only."""
        sent = dict(headers or {})
        if self._token and urlsplit(url).netloc == urlsplit(self._base).netloc:
            sent["Authorization"] = self._token
        try:
            answer = self._session.request(
                method,
                url,
                data=data,
                headers=sent,
                timeout=_TIMES,
                stream=True,
                allow_redirects=method in ("GET", "HEAD"),
            )
            if not stream:  # the connection is then free for the next request
                answer._content = _read(answer)
            return answer
        except requests.RequestException:
            return None

    def _found(self) -> str:
        """Where it answers: by TLS, or without on this machine's loopback alone, as engines do."""
        if self._base:
            return self._base
        host = _HUB[1] if self._host == _HUB[0] else self._host
        trouble = ""
        for scheme in ("https", "http") if _is_loopback(host) else ("https",):
            try:
                answer = self._session.get(f"{scheme}://{host}/v2/", timeout=_TIMES, stream=True)
                _read(answer)
            except requests.RequestException as error:
                trouble = trouble or f"{error}"
                continue
            self._base = f"{scheme}://{host}"
            if answer.status_code == 401:
                self._authorise(answer)
            return self._base
        raise RegistryError(
            f"the registry {self._host} does not answer: {trouble}",
            hint="check its name, the network and the proxy",
        )

    def _authorise(self, answer: requests.Response) -> bool:
        """Log in as the registry asks (RFC 7617, and distribution's token specification); whether that was new."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        user, password = self._login
        before = self._token
        if kind.lower() == "basic" and user:
            self._token = requests.auth._basic_auth_str(user, password)
        elif kind.lower() == "bearer":
            told = parse_dict_header(rest)  # type: ignore[no-untyped-call]  # requests has no types here
            scope = told.get("scope") or f"repository:{self._path}:pull,push"
            wanted = {"service": told.get("service", ""), "scope": scope}
            try:
                realm = str(told.get("realm", ""))
                _check_address(realm, after=self._base)
                given = self._session.get(
                    realm,
                    params=wanted,
                    auth=(user, password) if user else None,
                    timeout=_TIMES,
                    stream=True,
                )
                data = _read(given)
                found = json.loads(data) if given.status_code == 200 else {}
            except (requests.RequestException, ValueError, RecursionError):
                found = {}
            found = found if isinstance(found, dict) else {}
            token = found.get("token") or found.get("access_token")
            self._token = f"Bearer {token}" if token else ""
        return self._token not in ("", before)

    def _refused(self, method: str, path: str, answer: requests.Response) -> RegistryError:
        code = answer.status_code
        if code in (401, 403):
            return RegistryError(
                f"the registry {self._host} does not let you {method} {path.partition('/')[0]} of {self._path} "
                f"(HTTP {code})",
                hint=f"docker login {self._host}",
            )
        if code == 404:
            return RegistryError(f"{self.name} does not have {path}")
        return RegistryError(
            f"the registry {self._host} answers {method} {path} with HTTP {code}: {_words(answer)}"
        )


_ACCEPT = {
    "Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
}


@contextmanager
def _read_from(name: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:
        raise RegistryError(f"{name} broke off: {error}", hint="try again") from error


def _words(answer: requests.Response) -> str:
    try:
        return _read(answer)[:300].decode("utf-8", "replace")
    except requests.RequestException as error:
        return f"({error})"


def _pause(attempt: int, answer: requests.Response | None) -> None:
    told = answer.headers.get("Retry-After", "") if answer is not None else ""
    time.sleep(min(float(told) if told.isdigit() else 0.5 * 2.0**attempt, _LONGEST_PAUSE))


def _login(host: str) -> tuple[str, str]:
    """User and password of a registry as docker keeps them; empty where it keeps none."""
    try:
        found = docker.auth.load_config().resolve_authconfig(host) or {}
    except docker.errors.DockerException as error:
        raise RegistryError(
            f"docker's logins cannot be read: {error}", hint=f"docker login {host}"
        ) from error
    user = found.get("Username") or found.get("username") or ""
    return str(user), str(found.get("Password") or found.get("password") or "")


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
