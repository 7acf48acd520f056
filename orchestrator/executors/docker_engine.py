"""The Engine port on Docker's API (docker, podman's compatible socket).

A thin adapter: no policy, no retry, foreign exceptions translated. docker_json.py has the words, tar_stream.py the
files; docker_socket.py speaks where the engine is at a socket of this machine, docker_library.py elsewhere.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO

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
from orchestrator.executors.docker_socket import Broken, Refused, SocketApi
from orchestrator.executors.endpoint import Endpoint
from orchestrator.ports import Reporter

# Seconds for an answer to an ordinary call; waiting and following have none.
_ANSWER = 120
# Seconds for a sign of life.
_SIGN = 5


class DockerEngine:
    """An engine behind an endpoint; connects at the first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connected: Any = None
        self._info: EngineInfo | None = None

    @property
    def _api(self) -> Any:
        """The client, connected; untyped, since it is docker's library's, or one that gives its other calls to that."""
        if self._connected is None:
            try:
                self._connected = self._client(_ANSWER)
            except Exception as error:
                if not isinstance(error, OSError) and _translated(error) is None:
                    raise
                raise EngineError(
                    f"the container engine at {self._endpoint.url} ({self._endpoint.origin}) "
                    f"does not answer: {error}",
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
        config = docker_json.container_config(spec, podman=self.info().name == "podman")
        with _told("create a container"):
            return str(self._api.create_container_from_config(config, name=spec.name)["Id"])

    def start(self, container: str, stdin: bytes | None = None) -> None:
        """Start a created container; ``stdin`` is all that it reads there. It ends where this process dies."""
        with _told("start the container"), ExitStack() as stack:
            plug: socket.socket | None = None
            if stdin is not None:
                attached = self._api.plug(container)
                stack.callback(attached.close)
                plug = getattr(attached, "_sock", attached)  # the library's own is for reading only
            self._api.start(container)
            if plug is not None:
                plug.sendall(stdin or b"")
                plug.shutdown(socket.SHUT_RDWR)  # closing alone would not: the library keeps a reference

    def attach(self, container: str) -> Iterator[tuple[str, bytes]]:
        """Follow a container's output from now on; only for one that is not started yet."""
        with _told("attach to the container"):
            stream = self._api.attached(container)
        return _following(stream)

    def logs(
        self, container: str, *, follow: bool, since: float | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """All output that the engine kept so far, and what follows while the container runs."""
        asked = {"stdout": 1, "stderr": 1, "follow": int(follow), "since": since or 0}
        with _told("read the container's log"):
            yield from self._api.followed_log(container, asked)

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

    def _client(self, timeout: int, version: str = "") -> Any:
        path = self._endpoint.url.removeprefix("unix://")
        if path.startswith("/"):
            return SocketApi(path, timeout, lambda version: self._library(timeout, version), version)
        return self._library(timeout, version)

    def _library(self, timeout: int, version: str) -> Any:
        from orchestrator.executors import docker_library  # takes long to load

        return docker_library.connect(self._endpoint, timeout, version)

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
        """Remove a container whatever its state; missing is fine."""
        with suppress(_Missing), _told("remove the container"):
            self._api.remove_container(container, force=True, v=True)

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
    """Translate foreign exceptions; what was attempted comes first in the message."""
    try:
        yield
    except Exception as error:
        told = _translated(error)
        if told is not None:
            raise _error(what, told) from error
        if isinstance(error, OSError) or tar_stream.is_error(error):
            raise EngineError(f"cannot {what}: {error}") from error
        raise


def _translated(error: BaseException) -> Refused | Broken | None:
    """What the engine or the way to it did, for errors of those who speak to it."""
    if isinstance(error, Refused | Broken):
        return error
    library = sys.modules.get("orchestrator.executors.docker_library")
    return None if library is None else library.told(error)


def _error(what: str, told: Refused | Broken) -> EngineError:
    if isinstance(told, Broken):
        return EngineError(f"cannot {what}: {told}", hint="is the engine still running?")
    if told.status == 404:
        return _Missing(f"cannot {what}: {told}")
    hint = disk_full(told.explanation)
    if "could not select device driver" in told.explanation:
        hint = "this engine has no GPU support: install the NVIDIA container toolkit, or run without --gpus"
    return EngineError(f"the engine could not {what}: {told}", hint=hint)


def _following(stream: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    with _told("follow the container's output"):
        yield from stream
