"""The words of Docker's API: its answers as values of the Engine port, a container's spec as plain options.

Pure translation, without the library and without the engine (moby, api/swagger.yaml).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from orchestrator.engine_values import ContainerSpec, ContainerState, DeviceRequest, EngineInfo, LoadedImage

_FRACTION = re.compile(r"(\.\d{6})\d+")


def info_of(version: Mapping[str, Any], info: Mapping[str, Any], now: float) -> EngineInfo:
    """The engine as `GET /version` and `GET /info` tell it; ``now``: when the second was asked, by our clock."""
    security = [str(option) for option in info.get("SecurityOptions") or []]
    status = {str(row[0]): str(row[1]) for row in info.get("DriverStatus") or []}
    components = {
        str(part.get("Name", "")).lower(): str(part.get("Version", ""))
        for part in version.get("Components") or []
    }
    userns = any("name=userns" in option for option in security)
    podman = any("podman" in name for name in components)
    return EngineInfo(
        name="podman" if podman else "docker",
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        image_store="containerd"
        if status.get("driver-type", "").startswith("io.containerd.snapshotter")
        else "classic",
        os=str(version.get("Os", "linux")),
        architecture=_go_architecture(str(version.get("Arch", ""))),
        kernel=str(version.get("KernelVersion", "")),
        runc=components.get("runc", ""),
        rootless=any("rootless" in option for option in security),
        userns=userns,
        cgroup_version=str(info.get("CgroupVersion", "")),
        limits_enforced=str(info.get("CgroupDriver", "")) != "none",
        storage_driver=str(info.get("Driver", "")),
        cpus=int(info.get("NCPU", 0)),
        memory=int(info.get("MemTotal", 0)),
        id=str(info.get("ID") or ""),
        userns_root=_remapped(str(info.get("DockerRootDir", ""))) if userns else None,
        live_restore=bool(info.get("LiveRestoreEnabled")),
        containerd=components.get("containerd", ""),
        authorization=bool((info.get("Plugins") or {}).get("Authorization")),
        data_root=str(info.get("DockerRootDir") or ""),
        clock_ahead=_ahead(str(info.get("SystemTime") or ""), now),
        cdi_devices=tuple(
            sorted(
                str(device.get("ID", ""))
                for device in info.get("DiscoveredDevices") or ()  # engine 28.2 and later
                if device.get("Source") == "cdi"
            )
        ),
    )


def _ahead(stamp: str, now: float) -> float | None:
    """How far a time stamp of RFC 3339 is ahead of a moment; Go writes nanoseconds, which Python does not read."""
    try:
        return datetime.fromisoformat(_FRACTION.sub(r"\1", stamp).replace("Z", "+00:00")).timestamp() - now
    except ValueError:
        return None


def _remapped(data: str) -> tuple[int, int] | None:
    """The uid and gid of the containers' root: with userns-remap an engine's data lie in a folder of that name."""
    uid, _, gid = PurePosixPath(data).name.partition(".")
    return (int(uid), int(gid)) if uid.isdecimal() and gid.isdecimal() else None


def image_of(found: Mapping[str, Any]) -> LoadedImage:
    """An image as `GET /images/{name}/json` tells it."""
    return LoadedImage(
        id=str(found.get("Id", "")),
        architecture=str(found.get("Architecture") or ""),
        os=str(found.get("Os") or ""),
        diff_ids=tuple((found.get("RootFS") or {}).get("Layers") or ()),
        repo_digests=tuple(found.get("RepoDigests") or ()),
        env=tuple((found.get("Config") or {}).get("Env") or ()),
    )


def state_of(found: Mapping[str, Any]) -> ContainerState:
    """A container as `GET /containers/{id}/json` tells it."""
    state = found.get("State") or {}
    labels = (found.get("Config") or {}).get("Labels") or {}
    status = str(state.get("Status", ""))
    return ContainerState(
        id=str(found.get("Id", "")),
        status=status,
        exit_code=int(state.get("ExitCode", 0)) if status in ("exited", "dead") else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        started_at=str(state.get("StartedAt") or ""),
        finished_at=str(state.get("FinishedAt") or ""),
        labels=tuple(sorted((str(k), str(v)) for k, v in labels.items())),
    )


def frames(read: Callable[[int], bytes]) -> Iterator[tuple[str, bytes]]:
    """A container's multiplexed output: of each frame, the stream's number, three zeros, four bytes of length."""
    while len(head := read(8)) == 8:
        left = int.from_bytes(head[4:], "big")
        while left and (data := read(left)):
            left -= len(data)
            yield ("stderr" if head[0] == 2 else "stdout"), data


def host_options(spec: ContainerSpec, *, podman: bool = False) -> dict[str, Any]:
    """What a container may do, as the arguments of docker-py's `create_host_config`."""
    options: dict[str, Any] = {
        "network_mode": spec.network,
        "read_only": spec.read_only,
        "init": spec.init,
        "pids_limit": spec.pids,
        "shm_size": spec.shm_size,
        "security_opt": ["no-new-privileges"],
        # bind mounts by Mounts, never by Binds: those make a missing source silently
        "mounts": [_mount("bind", m.source, m.target, m.read_only) for m in spec.mounts]
        + [_mount("volume", name, target, False) for name, target in spec.volumes],
        "tmpfs": {t.target: _unowned(t.options) if podman else t.options for t in spec.tmpfs},
        "log_config": {"type": "json-file", "config": {"max-size": "64m", "max-file": "4"}},
        "ulimits": [{"name": "core", "soft": 0, "hard": 0}],
    }
    if spec.drop_capabilities:
        options["cap_drop"] = ["ALL"]
    if spec.memory is not None:
        options["mem_limit"] = options["memswap_limit"] = spec.memory
    if spec.cpus is not None:
        options["nano_cpus"] = int(spec.cpus * 1e9)
    if spec.runtime is not None:
        options["runtime"] = spec.runtime
    if spec.devices:
        options["device_requests"] = [_device_request(each) for each in spec.devices]
    return options


def _mount(kind: str, source: str, target: str, read_only: bool) -> dict[str, Any]:
    # docker-py hands mounts on as they are: these are the API's own words
    return {"Target": target, "Source": source, "Type": kind, "ReadOnly": read_only}


def _unowned(options: str) -> str:
    """Options of a tmpfs for podman, which knows no owner of one: everybody in the container may write then."""
    words = [word for word in options.split(",") if not word.startswith(("uid=", "gid=", "mode="))]
    return ",".join([*words, "mode=1777"])


def _device_request(asked: DeviceRequest) -> dict[str, Any]:
    """In the API's words (moby, DeviceRequest): the hook is found by its capability, CDI by the driver's name."""
    if asked.driver == "cdi":
        return {"driver": "cdi", "device_ids": list(asked.ids)}
    request: dict[str, Any] = {"capabilities": [["gpu"]]}
    return {**request, "device_ids": list(asked.ids)} if asked.ids else {**request, "count": asked.count}


def _go_architecture(name: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(name, name)
