"""GPUs as device requests: what reaches the engine's API, and what is refused before anything is built."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.inputs import InputCache
from orchestrator.engine_values import ContainerSpec, EngineInfo
from orchestrator.errors import EngineError, ImageError
from orchestrator.executors import docker_json, gpus
from orchestrator.executors.local_docker import LocalDocker
from orchestrator.store.folder import FolderStore
from tests.image_tools import Notes
from tests.image_tools import engine as ours
from tests.run_tools import PROJECT_YAML, Project


class Proxy:
    """Stands in front of the real engine, passes everything on, and keeps what was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked: list[bytearray] = []
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            behind = socket.socket(socket.AF_UNIX)
            behind.connect("/var/run/docker.sock")
            kept = bytearray()
            self._asked.append(kept)
            for source, sink, keep in ((client, behind, kept), (behind, client, None)):
                threading.Thread(target=self._pass, args=(source, sink, keep), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, keep: bytearray | None) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if keep is not None:
                    keep += piece
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Take no more."""
        self._door.close()

    def created(self) -> list[dict[str, Any]]:
        """The bodies of all requests that made a container."""
        found = []
        for talk in map(bytes, self._asked):
            at = 0
            while (at := talk.find(b"/containers/create", at)) >= 0:
                begin = talk.index(b"\r\n\r\n", at) + 4
                found.append(json.JSONDecoder().raw_decode(talk[begin:].decode("utf-8", "replace"))[0])
                at = begin
        return found


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path / "engine.sock")
    yield made
    made.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("gpus"), "print('ran')\n")


@pytest.mark.parametrize(
    ("asked", "sent", "recorded"),
    [
        ("2", {"Count": 2, "DeviceIDs": []}, "nvidia:count=2"),
        ("all", {"Count": -1, "DeviceIDs": []}, "nvidia:all"),
        ("1,GPU-3ab", {"Count": 0, "DeviceIDs": ["1", "GPU-3ab"]}, "nvidia:1,GPU-3ab"),
    ],
)
def test_the_engine_is_asked_for_what_the_option_says(
    project: Project, proxy: Proxy, asked: str, sent: dict[str, Any], recorded: str
) -> None:
    words = ("--config", "configs/a.yaml", "--gpus", asked)
    _, err, code = project.ended(project.start(*words, env={"DOCKER_HOST": f"unix://{proxy.path}"}))
    assert code == 8 and "no GPU support" in err  # there is none here: that is the real engine's answer
    body = next(body for body in proxy.created() if body["Labels"].get("flow.mirage.run"))
    (request,) = body["HostConfig"]["DeviceRequests"]
    assert request == {"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **sent}
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in body["Env"]
    newest = project.asked("show", "latest")["statement"]["predicate"]["buildDefinition"]
    assert newest["internalParameters"]["sandbox"]["devices"] == [recorded]
    project.mirage("verify", "latest", code=0)


def test_a_run_without_gpus_asks_for_none(project: Project, proxy: Proxy) -> None:
    made = project.run(env={"DOCKER_HOST": f"unix://{proxy.path}"})
    (body,) = (body for body in proxy.created() if body["Labels"].get("flow.mirage.run"))
    assert not body["HostConfig"].get("DeviceRequests")
    assert not [each for each in body["Env"] if each.startswith("NVIDIA")]
    definition = project.record(made["run_id"])["predicate"]["buildDefinition"]
    assert "devices" not in definition["internalParameters"]["sandbox"]


def test_another_runtime_is_asked_of_the_engine_by_its_name(project: Project, proxy: Proxy) -> None:
    words = ("--config", "configs/a.yaml", "--set", "mirage.run.runtime=runsc")
    _, err, code = project.ended(project.start(*words, env={"DOCKER_HOST": f"unix://{proxy.path}"}))
    assert code == 8 and "runsc" in err  # it is not installed here: that is the real engine's answer
    body = next(body for body in proxy.created() if body["Labels"].get("flow.mirage.run"))
    assert body["HostConfig"]["Runtime"] == "runsc"
    newest = project.asked("show", "latest")["statement"]["predicate"]["buildDefinition"]
    assert newest["internalParameters"]["sandbox"]["runtime"] == "runsc"


INFO = ours().info()
# `GET /info` of engine 28.5 with a CDI specification of two devices
DISCOVERED = [
    {"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "1", "10", "all", "GPU-3ab")
] + [{"Source": "cdi", "ID": "example.org/fpga=x"}]


def info_with_cdi() -> EngineInfo:
    return docker_json.info_of({"Version": "28.5.2"}, {"DiscoveredDevices": DISCOVERED}, 0.0)


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        (("all",), ("nvidia.com/gpu=all",)),
        (("count=2",), ("nvidia.com/gpu=0", "nvidia.com/gpu=1")),
        (("1", "GPU-3ab"), ("nvidia.com/gpu=1", "nvidia.com/gpu=GPU-3ab")),
        (("example.org/fpga=x",), ("example.org/fpga=x",)),
    ],
)
def test_cdi_is_used_where_the_engine_lists_devices(asked: tuple[str, ...], ids: tuple[str, ...]) -> None:
    (request,) = gpus.requests(asked, info_with_cdi())
    assert (request.driver, request.ids, request.count) == ("cdi", ids, 0)
    options = docker_json.host_options(ContainerSpec(image="x", argv=(), devices=(request,)))
    assert options["device_requests"] == [{"driver": "cdi", "device_ids": list(ids)}]


@pytest.mark.parametrize(
    ("asked", "info", "told"),
    [
        (("count=4",), info_with_cdi(), "4 GPUs were asked for, and the engine has 3"),
        (("7",), info_with_cdi(), "no device nvidia.com/gpu=7"),
        (("nvidia.com/gpu=0", "1"), info_with_cdi(), "named in two ways"),
        (("nvidia.com/gpu=0",), INFO, "it lists none"),
        (("all",), replace(INFO, name="podman"), "podman"),
    ],
)
def test_what_the_engine_cannot_give_is_refused(asked: tuple[str, ...], info: EngineInfo, told: str) -> None:
    with pytest.raises(EngineError) as caught:
        gpus.requests(asked, info)
    assert told in str(caught.value)


def test_it_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    project = Project(
        tmp_path, "print('ran')\n", files={".mirage/project.yaml": PROJECT_YAML + "base: no-such-base\n"}
    )
    error = project.refused("--config", "configs/a.yaml", "--gpus", "nvidia.com/gpu=0", code=8)
    assert "the engine has no device nvidia.com/gpu=0" in error


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT"])
def test_an_image_that_would_be_loaded_into_the_hook_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match=f"{name}=./evil.so") as caught:
        gpus.check_image(((name, "./evil.so"),))
    assert caught.value.exit_code == 5
    gpus.check_image((("PATH", "/bin"),))


def test_such_a_base_is_refused_with_gpus_only(tmp_path: Path) -> None:
    store = FolderStore.open_at(tmp_path / "store")
    executor = LocalDocker(ours(), tmp_path, InputCache(store, tmp_path / "trees", Notes()))
    executor.check_gpus((), (("LD_PRELOAD", "/evil.so"),))
    with pytest.raises(ImageError, match="CVE-2025-23266"):
        executor.check_gpus(("all",), (("LD_PRELOAD", "/evil.so"),))


@pytest.mark.parametrize(
    ("driver", "env", "refused"),
    [
        ("535.104.05", {"NVIDIA_REQUIRE_CUDA": "cuda>=12.4 brand=tesla,driver>=470,driver<471"}, False),
        ("470.57.02", {"NVIDIA_REQUIRE_CUDA": "cuda>=12.4"}, True),
        ("470.57.02", {"CUDA_VERSION": "11.8.0"}, False),
        ("550.54.14", {"CUDA_VERSION": "13.0.1"}, True),
        ("550.54.14", {"CUDA_VERSION": "13.0.1", "NVIDIA_DISABLE_REQUIRE": "true"}, False),
        ("470.57.02", {}, False),
        ("", {"CUDA_VERSION": "13.0.1"}, False),
    ],
)
def test_a_driver_too_old_for_the_image_is_told(
    tmp_path: Path, driver: str, env: dict[str, str], refused: bool
) -> None:
    file = tmp_path / "version"
    if driver:
        file.write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Sat Aug 19 2023\nGCC version:\n"
        )
    if refused:
        with pytest.raises(EngineError, match="this machine has"):
            gpus.check_image(tuple(env.items()), driver_file=file)
    else:
        gpus.check_image(tuple(env.items()), driver_file=file)
