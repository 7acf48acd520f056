"""Docker's own library: the calls that docker_socket.py does not make, and engines that are not at a socket here.

The only file that loads it for engines (registry.py has its logins): nothing on the way of a usual run does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import docker
import requests
import urllib3

from orchestrator.executors.docker_json import frames
from orchestrator.executors.docker_socket import Broken, Refused
from orchestrator.executors.endpoint import Endpoint


class _Client(docker.APIClient):
    """The library's low-level client, since the high-level one asks several more questions per call."""

    def attached(self, container: str) -> Iterator[tuple[str, bytes]]:
        """A container's output from now on.

        Only for one that is not started yet: the library reads past what arrives together with the answer's
        head, so that the first output of a running container would be lost.
        """
        return _named(self.attach(container, stdout=True, stderr=True, stream=True, logs=False, demux=True))

    def followed_log(self, container: str, params: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """A container's log; the library's own call does not tell the streams apart."""
        own: Any = self  # the stubs do not cover these
        answer = own._get(own._url("/containers/{0}/logs", container), params=params, stream=True)
        try:
            own._disable_socket_timeout(own._get_raw_response_socket(answer))
            yield from frames(answer.raw.read)
        finally:
            answer.close()

    def plug(self, container: str) -> Any:
        """A container's standard input: a file that is for reading only, of which `_sock` is the socket."""
        return self.attach_socket(container, params={"stdin": 1, "stream": 1})


def connect(endpoint: Endpoint, timeout: int, version: str = "") -> Any:
    """A client of an engine; it is asked for its API's version where that is not known. Raises the library's errors."""
    folder = endpoint.certificates
    # the docker CLI's certificates: ca.pem, cert.pem and key.pem in one folder
    tls = folder is not None and docker.tls.TLSConfig(
        client_cert=(f"{folder}/cert.pem", f"{folder}/key.pem"), ca_cert=f"{folder}/ca.pem", verify=True
    )
    return _Client(base_url=endpoint.url, version=version or "auto", timeout=timeout, tls=tls)


def told(error: BaseException) -> Refused | Broken | None:
    """An error of the library, or of those below it, in our words; None for any other."""
    if isinstance(error, docker.errors.APIError):
        status = getattr(error.response, "status_code", 0)
        return Refused(int(status or 0), str(error.explanation or error))
    below = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError)
    return Broken(str(error)) if isinstance(error, below) else None


def _named(stream: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[tuple[str, bytes]]:
    for out, err in stream:
        if out:
            yield "stdout", out
        if err:
            yield "stderr", err
