"""The engine's socket, spoken to without docker's library: the same words, and answers that come broken, late or early."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from orchestrator.engine_values import ContainerSpec, DeviceRequest, Mount, Tmpfs
from orchestrator.errors import EngineError
from orchestrator.executors import docker_json, socket_http
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import Endpoint
from tests.image_tools import engine
from tests.run_tools import BIN, Project

SPEC = ContainerSpec(
    image="sha256:0",
    argv=("python", "-m", "x"),
    name="n",
    env=(("A", "1"), ("B", "x=y")),
    labels=(("l", "v"),),
    user="10001:10001",
    working_dir="/workspace",
    mounts=(Mount("/a", "/b", True), Mount("/c", "/d", False)),
    volumes=(("cache", "/cache"),),
    tmpfs=(Tmpfs("/tmp", "rw,mode=1777"),),
)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, stdin=True, memory=1 << 30, cpus=1.5, runtime="runsc", read_only=False),
        replace(SPEC, drop_capabilities=False, working_dir="", network="host", init=False),
        replace(SPEC, devices=(DeviceRequest("nvidia", count=-1), DeviceRequest("cdi", ids=("x/y=0",)))),
        replace(SPEC, devices=(DeviceRequest("nvidia", ids=("0", "1")),)),
    ],
)
def test_a_container_is_described_as_dockers_own_library_describes_it(spec: ContainerSpec) -> None:
    host: dict[str, Any] = {
        "network_mode": spec.network,
        "read_only": spec.read_only,
        "init": spec.init,
        "pids_limit": spec.pids,
        "shm_size": spec.shm_size,
        "security_opt": ["no-new-privileges"],
        "mounts": [
            {"Target": m.target, "Source": m.source, "Type": "bind", "ReadOnly": m.read_only}
            for m in spec.mounts
        ]
        + [{"Target": "/cache", "Source": "cache", "Type": "volume", "ReadOnly": False}],
        "tmpfs": {each.target: each.options for each in spec.tmpfs},
        "log_config": {"type": "json-file", "config": {"max-size": "64m", "max-file": "4"}},
        "ulimits": [{"name": "core", "soft": 0, "hard": 0}],
        **({"cap_drop": ["ALL"]} if spec.drop_capabilities else {}),
        **({"mem_limit": spec.memory, "memswap_limit": spec.memory} if spec.memory else {}),
        **({"nano_cpus": int(spec.cpus * 1e9)} if spec.cpus else {}),
        **({"runtime": spec.runtime} if spec.runtime else {}),
    }
    if spec.devices:
        host["device_requests"] = [
            {"driver": "cdi", "device_ids": list(each.ids)}
            if each.driver == "cdi"
            else {
                "capabilities": [["gpu"]],
                **({"device_ids": list(each.ids)} if each.ids else {"count": each.count}),
            }
            for each in spec.devices
        ]
    library = docker.APIClient(base_url="unix:///nowhere", version="1.41")
    theirs = library.create_container_config(
        image=spec.image,
        command=list(spec.argv),
        environment=dict(spec.env),
        labels=dict(spec.labels),
        user=spec.user,
        working_dir=spec.working_dir or None,
        stdin_open=spec.stdin,
        host_config=library.create_host_config(**host),
    )
    ours = docker_json.container_config(spec)
    said = {key: value for key, value in json.loads(json.dumps(theirs)).items() if value is not None}
    said.pop("NetworkDisabled")  # it says the default
    assert {key: value for key, value in ours.items() if value is not None} == said


@contextmanager
def answering(
    folder: Path, *answers: bytes, after: Callable[[bytes], bool] = lambda got: b"\r\n\r\n" in got
) -> Iterator[str]:
    """A server that gives these answers, one a connection, each when enough of the request is there, and hangs up."""
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                line, _ = listener.accept()
                with line:
                    got = b""
                    while not after(got):
                        got += line.recv(1 << 16)
                    line.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        thread.join(10)
        assert not thread.is_alive()


def whole(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    head = b"".join(b"%b\r\n" % each for each in (*headers, b"Content-Length: %d" % len(body)))
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, body)


VERSION = whole(b'{"ApiVersion": "1.41"}')
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def at(path: str) -> DockerEngine:
    return DockerEngine(Endpoint(f"unix://{path}", "a test"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "it hung up"),
        (b"SSH-2.0-x\r\n", "the answer begins with"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "broke off"),
        (CHUNKED + b"5\r\n{", "broke off"),
        (CHUNKED + b"zz\r\n", "broke off"),
        (CHUNKED + b"1\r\n{\r\n", "broke off"),
        (whole(b"{"), "cannot look for"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300, "no end"),
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(tmp_path: Path, answer: bytes, told: str) -> None:
    with answering(tmp_path, VERSION, answer) as path, pytest.raises(EngineError, match=told) as caught:
        at(path).image("x")
    assert caught.value.hint == "is the engine still running?"


def test_why_it_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    answers = (
        whole(b'{"message": "no such thing"}', b"404 Not Found"),
        whole(b'{"message": "no space left on device"}', b"500 Internal Server Error"),
        whole(b"plain\n", b"409 Conflict"),
    )
    with answering(tmp_path, VERSION, *answers) as path:
        engine = at(path)
        assert engine.image("x") is None
        with pytest.raises(
            EngineError, match="the engine could not start the container: no space left"
        ) as caught:
            engine.start("x")
        assert caught.value.hint is not None
        assert "disk is full" in caught.value.hint
        with pytest.raises(EngineError, match="the engine could not start the container: plain"):
            engine.start("x")


def test_an_engine_that_says_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    started = time.monotonic()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        with pytest.raises(TimeoutError):
            socket_http.ask(str(tmp_path / "socket"), "GET", "/", {}, b"", 0.2)
    assert time.monotonic() - started < 5


def test_what_a_load_says_is_read_as_it_comes_and_an_early_refusal_is_heard(tmp_path: Path) -> None:
    lines = b'{"stream": "Loading"}\r\n{"errorDetail": {}, "error": "no space left on device"}'
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (lines[:9], lines[9:40], lines[40:]))
    early = whole(b'{"message": "not now"}', b"500 Internal Server Error")

    def archive() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    with (
        answering(
            tmp_path, VERSION, CHUNKED + pieces + b"0\r\n\r\n", after=lambda got: got.endswith(b"\r\n\r\n")
        ) as path,
        pytest.raises(EngineError, match="could not load the image: no space left"),
    ):
        at(path).load(iter((b"x", b"", b"y")))
    (tmp_path / "socket").unlink()
    with (
        answering(tmp_path, VERSION, early) as path,
        pytest.raises(EngineError, match="load an image: not now"),
    ):
        at(path).load(archive())


def test_an_error_of_who_makes_the_archive_is_that_error() -> None:
    def archive() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        engine().load(archive())


def test_a_usual_run_loads_neither_dockers_library_nor_an_http_client(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", "print('here')\n")
    project.run()
    program = (
        "import json, os, sys\nfrom orchestrator.cli.main import run_main\nleave = os._exit\n"
        "def tell(code):\n    print(json.dumps(sorted(sys.modules)), flush=True)\n    leave(code)\n"
        f"os._exit = tell\nsys.argv = ['{BIN}/mirage-run', '--config', 'configs/a.yaml']\nrun_main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project.folder, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "orchestrator.executors.docker_socket" in loaded
    heavy = {
        "docker",
        "requests",
        "urllib3",
        "http.client",
        "ssl",
        "email",
        "importlib.metadata",
        "tarfile",
    }
    assert loaded & heavy == set()
