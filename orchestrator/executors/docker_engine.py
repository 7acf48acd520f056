"""The Engine port on Docker's API (docker, podman's compatible socket): the only file that speaks docker.

A thin adapter: no policy, no retry, foreign exceptions translated; docker_json.py has the words, tar_stream.py the
files. It uses the low-level client, since the high-level one asks several more questions per call.
"""

from __future__ import annotations

import os
import socket
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO

import docker
import requests
import urllib3

from orchestrator.digest import CHUNK
from orchestrator.engine_values import (
    BuildSpec,
    ContainerSpec,
    ContainerState,
    EngineInfo,
    LoadedImage,
    disk_full,
)
from orchestrator.errors import EngineError
from orchestrator.executors import answers, docker_json, tar_stream
from orchestrator.executors.endpoint import Endpoint
from orchestrator.ports import Reporter

# Seconds for an answer to an ordinary call; waiting and following have none.
_ANSWER = 120
# Seconds for a sign of life.
_SIGN = 5
# Seconds for which a container is waited for that somebody else removes: its files may be many.
_ELSEWHERE = 30.0


class DockerEngine:
    """An engine behind an endpoint; connects at the first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connected: Any = None
        self._info: EngineInfo | None = None

    @property
    def _api(self) -> Any:
        """The client, connected; untyped, since the stubs do not cover the low-level calls that we make."""
        if self._connected is None:
            try:
                self._connected = self._client(_ANSWER)
            except (docker.errors.DockerException, OSError) as error:
                raise EngineError(
                    f"the container engine at {self._endpoint.url} ({self._endpoint.origin}) "
                    f"does not answer: {_reason(error)}",
                    hint="start it (`make engine` in Mirage's repository, or `systemctl start docker`), "
                    "or point DOCKER_HOST at one that runs",
                ) from error
        return self._connected

    def info(self) -> EngineInfo:
        """Ask once, then remember."""
        if self._info is None:
            with _told("ask the engine about itself"):
                version = self._api.version()
                asked = time.time()
                info = self._api.info()
            self._info = docker_json.info_of(version, info, (asked + time.time()) / 2)
        return self._info

    def image(self, reference: str) -> LoadedImage | None:
        """The image, or None where the engine does not have it."""
        try:
            with _told(f"look for the image {reference}"):
                found = self._api.inspect_image(reference)
        except _Missing:
            return None
        return docker_json.image_of(found)

    def load(self, archive: Iterable[bytes]) -> None:
        """Load a layout archive; EngineError also where the stream tells a failure under HTTP 200."""
        # Not quiet: the engine then speaks while it works, and the time limit is for silence, not for the whole.
        with _told("load an image"):
            answers.loaded(self._api.load_image(archive, quiet=False))

    def save(self, reference: str) -> Iterator[bytes]:
        """The image as an archive."""
        with _told(f"save the image {reference}"):
            yield from self._api.get_image(reference, chunk_size=CHUNK)

    def pull(self, reference: str, platform: str | None, reporter: Reporter | None = None) -> None:
        """Pull from a registry."""
        with _told(f"pull {reference}"):
            lines = self._api.pull(reference, stream=True, decode=True, platform=platform)
            answers.pulled(lines, reference, reporter)

    def build(self, context: BinaryIO, spec: BuildSpec, reporter: Reporter) -> str:
        """Build a Dockerfile with the engine's classic builder: the SDK has no session for another one."""
        with _told("build an image"):
            lines = self._api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=spec.dockerfile,
                buildargs=dict(spec.arguments),
                network_mode=spec.network,
                platform=spec.platform,
                nocache=spec.fresh,
                rm=True,
                forcerm=True,
                decode=True,
            )
            return answers.built(lines, reporter)

    def export(self, container: str) -> Iterator[bytes]:
        """The file system of a container as a tar."""
        with _told("export the container's file system"):
            yield from self._api.export(container, chunk_size=CHUNK)

    def tag(self, image_id: str, reference: str) -> None:
        """Give an image a name."""
        repository, _, tag = reference.rpartition(":")
        with _told(f"tag {reference}"):
            self._api.tag(image_id, repository, tag)

    def tags(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The images' names that begin so, each with its image's bytes."""
        with _told("list the images"):
            found = self._api.images(filters={"reference": f"{prefix}*"})
        for item in found:
            for name in item.get("RepoTags") or ():
                if name.startswith(prefix):
                    yield name, int(item["Size"])

    def remove_image(self, reference: str) -> None:
        """Remove a name, and the image with its last one; missing is fine."""
        with suppress(_Missing), _told(f"remove the image {reference}"):
            self._api.remove_image(reference)

    def create(self, spec: ContainerSpec) -> str:
        """Create a container; gives its id."""
        host = docker_json.host_options(spec, podman=self.info().name == "podman")
        with _told("create a container"):
            made = self._api.create_container_from_config(
                self._api.create_container_config(
                    image=spec.image,
                    command=list(spec.argv),
                    environment=dict(spec.env),
                    labels=dict(spec.labels),
                    user=spec.user,
                    working_dir=spec.working_dir or None,
                    stdin_open=spec.stdin,
                    host_config=self._api.create_host_config(**host),
                ),
                name=spec.name,
            )
        return str(made["Id"])

    def start(self, container: str, stdin: bytes | None = None) -> None:
        """Start a created container; ``stdin`` is all that it reads there. It ends where this process dies."""
        with _told("start the container"), ExitStack() as stack:
            plug: socket.socket | None = None
            if stdin is not None:
                attached = self._api.attach_socket(container, params={"stdin": 1, "stream": 1})
                stack.callback(attached.close)
                plug = getattr(attached, "_sock", attached)  # docker-py's own is for reading only
            self._api.start(container)
            if plug is not None:
                plug.sendall(stdin or b"")
                plug.shutdown(socket.SHUT_RDWR)  # closing alone would not: the library keeps a reference

    def attach(self, container: str) -> Iterator[tuple[str, bytes]]:
        """Follow a container's output from now on.

        Only for one that is not started yet: docker-py reads past what arrives together with the answer's
        head, so that the first output of a running container would be lost.
        """
        with _told("attach to the container"):
            stream = self._api.attach(
                container, stdout=True, stderr=True, stream=True, logs=False, demux=True
            )
        return _named(stream)

    def logs(
        self, container: str, *, follow: bool, since: float | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """All output that the engine kept so far, and what follows while the container runs.

        The library's own call does not tell the streams apart.
        """
        with _told("read the container's log"):
            answer = self._api._get(
                self._api._url("/containers/{0}/logs", container),
                params={"stdout": 1, "stderr": 1, "follow": int(follow), "since": since or 0},
                stream=True,
            )
            try:
                self._api._disable_socket_timeout(self._api._get_raw_response_socket(answer))
                yield from docker_json.frames(answer.raw.read)
            finally:
                answer.close()

    def wait(self, container: str) -> bool:
        """Return when the container is no longer running, or, with False, when the connection broke."""
        try:
            with _told("wait for the container"):
                self._api.wait(container, timeout=None)
        except EngineError:
            return False
        return True

    def ping(self) -> None:
        """Ask it for a sign of life, on a connection of its own: one that is open already may outlive its engine."""
        with _told("reach the engine"):
            client = self._client(_SIGN, self._api.api_version)
            try:
                client.ping()
            finally:
                client.close()

    def _client(self, timeout: int, version: str = "auto") -> Any:
        certificates = self._endpoint.certificates
        return docker.APIClient(
            base_url=self._endpoint.url,
            version=version,
            timeout=timeout,
            tls=_tls(certificates) if certificates else False,
        )

    def listening_since(self) -> float | None:
        """The age of its socket, which an engine makes anew at its start (with socket activation systemd does)."""
        try:
            return os.stat(self._endpoint.url.removeprefix("unix://")).st_mtime
        except OSError:
            return None

    def inspect(self, container: str) -> ContainerState | None:
        """The state, or None where there is no such container."""
        try:
            with _told("inspect the container"):
                return docker_json.state_of(self._api.inspect_container(container))
        except _Missing:
            return None

    def stop(self, container: str, grace: float) -> None:
        """SIGTERM, then SIGKILL after ``grace`` seconds."""
        with suppress(_Missing), _told("stop the container"):
            self._api.stop(container, timeout=int(grace))

    def kill(self, container: str) -> None:
        """SIGKILL now; a container that already ended is fine."""
        try:
            with _told("kill the container"):
                self._api.kill(container)
        except _Missing:
            return
        except EngineError:
            state = self.inspect(container)
            if state is not None and state.status == "running":
                raise

    def remove(self, container: str) -> None:
        """Remove a container whatever its state; missing is fine, and so is somebody else who is at it."""
        with suppress(_Missing), _told("remove the container"):
            try:
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.APIError as error:
                if "already in progress" not in _reason(error):
                    raise
                self._gone(container)

    def _gone(self, container: str) -> None:
        """Remove a container that somebody else was removing: until it is gone, or that one has failed, and we do not."""
        end, pause = time.monotonic() + _ELSEWHERE, 0.05
        while True:
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
            try:
                self._api.remove_container(container, force=True, v=True)
                return
            except docker.errors.APIError as error:
                if "already in progress" not in _reason(error) or time.monotonic() > end:
                    raise

    def find(self, label: str) -> tuple[ContainerState, ...]:
        """The containers that carry the label ``name`` or ``name=value``."""
        with _told("list containers"):
            found = self._api.containers(all=True, filters={"label": label})
        states = (self.inspect(str(item["Id"])) for item in found)
        return tuple(state for state in states if state is not None)

    def run_in(
        self,
        container: str,
        argv: tuple[str, ...],
        env: tuple[tuple[str, str], ...],
        reporter: Reporter,
        user: str = "0:0",
    ) -> tuple[int, str]:
        """Run a command in a running container; its output goes line by line to the reporter."""
        with _told(f"run {argv[0]} in the container"):
            made = self._api.exec_create(container, list(argv), environment=dict(env), user=user)
            output: list[str] = []
            rest = b""
            for piece in self._api.exec_start(made["Id"], stream=True):
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    output.append(line.decode("utf-8", "replace"))
                    reporter.detail(output[-1])
            if rest:
                output.append(rest.decode("utf-8", "replace"))
            code = self._api.exec_inspect(made["Id"])["ExitCode"]
        return int(code if code is not None else -1), "\n".join(output)

    def received(self, container: str) -> int | None:
        """Bytes that came to a container over networks of its own, or None where that cannot be told."""
        with suppress(EngineError), _told("measure the container's network"):
            return answers.received(self._api.stats(container, stream=False, one_shot=True))
        return None

    def put(self, container: str, folder: str, files: Iterable[tuple[str, bytes, int]]) -> None:
        """Put files (name, bytes, mode) into a folder that exists in the container."""
        packed = tar_stream.pack(files)
        with _told(f"put files into {folder}"):
            self._api.put_archive(container, folder, packed)

    def get(self, container: str, path: str) -> Iterator[bytes]:
        """The bytes of one file in the container."""
        with _told(f"get {path}"):
            stream, _ = self._api.get_archive(container, path, chunk_size=CHUNK)
            yield from tar_stream.first_file(stream, path)

    def idle_volumes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Volumes that no container has; the engine measures all that it holds for this."""
        with _told("measure volumes"):
            found = self._api.df().get("Volumes") or ()
        for each in found:
            used = each.get("UsageData") or {}
            if each["Name"].startswith(prefix) and int(used.get("RefCount", 1)) == 0:
                yield str(each["Name"]), max(0, int(used.get("Size", 0)))

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; missing is fine."""
        with suppress(_Missing), _told(f"remove the volume {name}"):
            self._api.remove_volume(name)


class _Missing(EngineError):
    """The engine has no such object (HTTP 404)."""


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Translate the library's exceptions; what was attempted comes first in the message."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise _Missing(f"cannot {what}: {_reason(error)}") from error
    except docker.errors.APIError as error:
        reason = _reason(error)
        hint = disk_full(reason)
        if "could not select device driver" in reason:
            hint = (
                "this engine has no GPU support: install the NVIDIA container toolkit, or run without --gpus"
            )
        raise EngineError(f"the engine could not {what}: {reason}", hint=hint) from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise EngineError(f"cannot {what}: {_reason(error)}", hint="is the engine still running?") from error
    except (OSError, tarfile.TarError) as error:
        raise EngineError(f"cannot {what}: {error}") from error


def _tls(folder: str) -> Any:
    """The docker CLI's certificates: ca.pem, cert.pem and key.pem in one folder."""
    return docker.tls.TLSConfig(
        client_cert=(f"{folder}/cert.pem", f"{folder}/key.pem"), ca_cert=f"{folder}/ca.pem", verify=True
    )


def _reason(error: BaseException) -> str:
    explanation = getattr(error, "explanation", None)
    return str(explanation or error)


def _named(stream: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[tuple[str, bytes]]:
    with _told("follow the container's output"):
        for out, err in stream:
            if out:
                yield "stdout", out
            if err:
                yield "stderr", err
