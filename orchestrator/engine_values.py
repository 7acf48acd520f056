"""What is said to an engine and what it says: containers, images, builds, and the engine itself, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import EngineError

Pairs = tuple[tuple[str, str], ...]  # names and values


def disk_full(said: str) -> str | None:
    """What to do where an engine, or a program in one of its containers, says that the engine's disk is full."""
    if "no space left" not in said.lower():
        return None
    return (
        "the engine's disk is full: `docker system df` tells of what, `docker system prune` frees space there"
    )


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself."""

    name: str
    version: str
    api_version: str
    image_store: str  # "containerd" (ids are manifest digests) or "classic" (ids are config digests)
    os: str
    architecture: str
    kernel: str
    runc: str
    rootless: bool
    userns: bool
    cgroup_version: str
    limits_enforced: bool
    storage_driver: str
    cpus: int
    memory: int
    id: str = ""  # the engine's own, kept with its data; podman has none
    cdi_devices: tuple[str, ...] = ()  # fully qualified, `vendor.com/class=name`
    userns_root: tuple[int, int] | None = (
        None  # the uid and gid outside of its containers' root, where it tells them
    )
    live_restore: bool = False  # whether its containers outlive it
    containerd: str = ""
    authorization: bool = False  # whether a plugin decides what its clients may do
    data_root: str = ""  # on the engine's own host
    clock_ahead: float | None = None  # seconds by which its clock is ahead of this machine's


@dataclass(frozen=True)
class LoadedImage:
    """An image as the engine has it."""

    id: str
    architecture: str
    os: str
    diff_ids: tuple[str, ...]
    repo_digests: tuple[str, ...]
    env: tuple[str, ...]


@dataclass(frozen=True)
class Mount:
    """A bind mount of the engine's host, named by the local executor only."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class DeviceRequest:
    """Devices of a driver: so many of them (-1: all), or these ids."""

    driver: str  # nvidia | cdi
    count: int = 0
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "all" if self.count < 0 else f"count={self.count}" if self.count else ",".join(self.ids)
        return f"{self.driver}:{what}"


@dataclass(frozen=True)
class Tmpfs:
    """A file system in memory inside the container."""

    target: str
    options: str


@dataclass(frozen=True)
class ContainerSpec:
    """Everything about one container; the defaults are the hardened ones (design section 9)."""

    image: str
    argv: tuple[str, ...]
    name: str | None = None
    env: Pairs = ()
    labels: Pairs = ()
    user: str = ""
    working_dir: str = ""
    network: str = "none"
    read_only: bool = True
    drop_capabilities: bool = True
    init: bool = True
    pids: int = 4096
    runtime: str | None = None
    shm_size: int = 1 << 30
    memory: int | None = None
    cpus: float | None = None
    devices: tuple[DeviceRequest, ...] = ()
    stdin: bool = False
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()


@dataclass(frozen=True)
class ContainerState:
    """What the engine says of a container; ``status`` as Docker has it (created, running, exited...)."""

    id: str
    status: str
    exit_code: int | None
    oom_killed: bool
    error: str
    started_at: str
    finished_at: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BuildSpec:
    """A Dockerfile's build: ``dockerfile`` is its path in the context (a tar), ``network`` None the engine's own."""

    dockerfile: str
    arguments: tuple[tuple[str, str], ...] = ()
    network: str | None = None
    platform: str | None = None
    fresh: bool = False


class BuildFailed(EngineError):
    """A step of a Dockerfile failed: which one (from 1; None before the first), and the build's last lines."""

    def __init__(self, reason: str, *, step: int | None, output: str) -> None:
        where = "the build" if step is None else f"step {step} of the build"
        super().__init__(f"{where} failed: {reason}" + (f"\n{output}" if output else ""))
        self.reason, self.step, self.output = reason, step, output
