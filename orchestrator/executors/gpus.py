"""GPUs: what a run asks for as device requests of the engine, and what must be so before anything is built for it.

Knows NVIDIA's two ways into a container: the runtime's hook, and CDI (the Container Device Interface) where the
engine lists devices. Whether a GPU computes is nobody's promise here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from orchestrator.engine_values import DeviceRequest, EngineInfo
from orchestrator.errors import EngineError, ImageError

_CDI = "nvidia.com/gpu"
DRIVER_FILE = Path("/proc/driver/nvidia/version")
# NVIDIA, "CUDA Compatibility", table 1: the first driver that runs all minor versions of a CUDA release.
_LEAST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
# Read by programs of the hook, which run as root outside: CVE-2025-23266 ("NVIDIAScape")
_LOADED = ("LD_PRELOAD", "LD_AUDIT")


def requests(gpus: tuple[str, ...], info: EngineInfo) -> tuple[DeviceRequest, ...]:
    """The device requests for `all`, `count=N` or ids; ids such as `vendor.com/class=name` are CDI's.

    By CDI where the engine has NVIDIA's devices listed, which is what NVIDIA recommends. Raises EngineError for an
    engine that could not do it, or would leave it out without a word.
    """
    if not gpus:
        return ()
    if info.name == "podman":
        raise EngineError(
            "podman's Docker-compatible API leaves GPUs out without saying so",
            hint="use Docker for runs with GPUs (podman issue 22645)",
        )
    listed = [device for device in info.cdi_devices if device.startswith(f"{_CDI}=")]
    named = [each for each in gpus if "=" in each and not each.startswith("count=")]
    if named or listed:
        return (_by_cdi(gpus, named, listed, info),)
    if gpus == ("all",):
        return (DeviceRequest("nvidia", count=-1),)
    if gpus[0].startswith("count="):
        return (DeviceRequest("nvidia", count=_count(gpus)),)
    return (DeviceRequest("nvidia", ids=gpus),)


def _by_cdi(gpus: tuple[str, ...], named: list[str], listed: list[str], info: EngineInfo) -> DeviceRequest:
    if named and len(named) < len(gpus):
        raise EngineError(
            f"GPUs are named in two ways: {', '.join(gpus)}", hint="name all of them as CDI does, or none"
        )
    if gpus[0].startswith("count="):
        single = sorted((d for d in listed if re.fullmatch(r"\d+", d.partition("=")[2])), key=_index)
        wanted = single[: _count(gpus)]
        if len(wanted) < _count(gpus):
            raise EngineError(
                f"{_count(gpus)} GPUs were asked for, and the engine has {len(single)}", hint=_there(listed)
            )
    else:
        wanted = [each if "=" in each else f"{_CDI}={each}" for each in gpus]
    unknown = [each for each in wanted if each not in info.cdi_devices]
    if unknown:
        raise EngineError(
            f"the engine has no device {', '.join(unknown)}", hint=_there(list(info.cdi_devices))
        )
    return DeviceRequest("cdi", ids=tuple(wanted))


def _index(device: str) -> int:
    return int(device.partition("=")[2])


def _count(gpus: tuple[str, ...]) -> int:
    return int(gpus[0].removeprefix("count="))


def _there(devices: list[str]) -> str:
    return (
        f"its devices are: {', '.join(devices)}"
        if devices
        else "it lists none: is CDI set up (nvidia-ctk cdi generate)?"
    )


def check_image(env: Iterable[tuple[str, str]], *, driver_file: Path = DRIVER_FILE) -> None:
    """Check what an image sets against GPUs: nothing that the host would load, no newer CUDA than the driver runs.

    Raises ImageError, or EngineError for the driver. Where this machine has no driver's file (the engine is on
    another one), the driver is not judged.
    """
    found = dict(env)
    for name in _LOADED:
        if name in found:
            raise ImageError(
                f"the image sets {name}={found[name]}, which programs of the GPU runtime would load as root outside of "
                "the container (CVE-2025-23266)",
                hint=f"take {name} out of the base, or run without --gpus",
            )
    wanted = _wanted_cuda(found)
    driver = _driver(driver_file)
    if wanted is None or driver is None or found.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("1", "true"):
        return
    least = _LEAST_DRIVER.get(wanted)
    if least is not None and driver < least:
        raise EngineError(
            f"the image needs CUDA {wanted}, which needs driver {least[0]}.{least[1]} or later; this machine has "
            f"{driver[0]}.{driver[1]}",
            hint="update the driver, or take a base with an older CUDA",
        )


def _wanted_cuda(env: dict[str, str]) -> int | None:
    """The major version of CUDA that an image asks for (libnvidia-container, NVIDIA_REQUIRE_*; CUDA_VERSION)."""
    required = re.search(r"cuda>=(\d+)", env.get("NVIDIA_REQUIRE_CUDA", ""))
    version = re.match(r"(\d+)", env.get("CUDA_VERSION", ""))
    found = required or version
    return int(found[1]) if found else None


def _driver(file: Path) -> tuple[int, int] | None:
    try:
        found = re.search(r"\s(\d{3,})\.(\d+)", file.read_text(errors="replace"))
    except OSError:
        return None
    return (int(found[1]), int(found[2])) if found else None
