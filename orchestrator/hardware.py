"""What the run ran on: processor, memory, kernel, GPUs; no names, no addresses, no serial numbers.

Read from /proc and /sys; of a run that was given GPUs, the driver's own program is asked for what stands in neither.
The C library is not among it: the one that a workflow uses lies in its base, and the base's digest is recorded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path

from orchestrator import process
from orchestrator.canonical import Json

# What is asked of nvidia-smi, under the names that records have (nvidia-smi --help-query-gpu).
_ASKED = {
    "uuid": "uuid",
    "model": "name",
    "vbios": "vbios_version",
    "driver": "driver_version",
    "memory": "memory.total",
    "compute_capability": "compute_cap",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
    "power_limit": "power.limit",
}
_PATIENCE = 20.0  # seconds; a driver that nobody keeps loaded takes some to answer
_TELLING_FLAGS = ("avx2", "avx512f", "amx_tile", "sha_ni", "fma")


def describe(root: Path = Path("/"), *, ask_driver: bool = False) -> dict[str, Json]:
    """The machine's hardware class; memory in bytes, power in watts.

    ``limits`` are those of the cgroup that Mirage itself runs in. ``ask_driver``: run NVIDIA's nvidia-smi, which takes
    a part of a second, for what the files do not tell of GPUs.
    """
    cpu = _first_processor(root)
    driver, gpus = _gpu_driver(root), _gpus(root)
    if ask_driver:
        driver, gpus = _asked(driver, gpus)
    flags = sorted(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "cpu": {
            "vendor": cpu.get("vendor_id", ""),
            "model": cpu.get("model name", ""),
            "family": cpu.get("cpu family", ""),
            "model_number": cpu.get("model", ""),
            "stepping": cpu.get("stepping", ""),
            "microcode": cpu.get("microcode", ""),
            "flags": [flag for flag in _TELLING_FLAGS if flag in flags],
            "flags_sha256": hashlib.sha256(" ".join(flags).encode()).hexdigest(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "memory": _memory(),
        "limits": {"cpus": _cpu_limit(root), "memory": _memory_limit(root)},
        "gpu_driver": driver,
        "gpus": [*gpus],
    }


def _first_processor(root: Path) -> dict[str, str]:
    return _pairs(_read(root / "proc/cpuinfo").split("\n\n", 1)[0])


def _pairs(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _cpu_limit(root: Path) -> float | None:
    """CPUs by quota: cgroup v2's `cpu.max`, else v1's pair of files; as a container sees its own."""
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (
            _read(root / f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _memory_limit(root: Path) -> int | None:
    text = _read(root / "sys/fs/cgroup/memory.max") or _read(
        root / "sys/fs/cgroup/memory/memory.limit_in_bytes"
    )
    # v1 says that there is none with the largest multiple of a page
    return int(text) if text.strip().isdigit() and int(text) < 1 << 60 else None


def _gpu_driver(root: Path) -> str | None:
    """`NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  ...`."""
    found = re.search(
        r"Kernel Module\S*(?: for \S+)?\s+(\d+(?:\.\d+)+)", _read(root / "proc/driver/nvidia/version")
    )
    return f"nvidia {found[1]}" if found else None


def _gpus(root: Path) -> list[dict[str, Json]]:
    """NVIDIA's GPUs in the order of their PCI addresses; their UUIDs only hashed."""
    found: list[dict[str, Json]] = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        told = _pairs(_read(path))
        uuid = hashlib.sha256(told.get("GPU UUID", "").encode()).hexdigest()
        found.append(
            {"model": told.get("Model", ""), "vbios": told.get("Video BIOS", ""), "uuid_sha256": uuid}
        )
    return found


def _asked(driver: str | None, known: list[dict[str, Json]]) -> tuple[str | None, list[dict[str, Json]]]:
    """Driver and GPUs as nvidia-smi tells them; what is known already where it is not there, or does not answer."""
    question = f"--query-gpu={','.join(_ASKED.values())}"
    try:
        done = process.run(
            ["nvidia-smi", question, "--format=csv,noheader,nounits"], env={"LC_ALL": "C"}, timeout=_PATIENCE
        )
    except (process.ProgramMissing, TimeoutError, OSError):
        return driver, known
    lines = [line.split(", ") for line in done.stdout.decode("utf-8", "replace").splitlines() if line]
    if done.code != 0 or not lines or any(len(line) != len(_ASKED) for line in lines):
        return driver, known
    told = [{name: _said(text) for name, text in zip(_ASKED, line, strict=True)} for line in lines]
    if told[0]["driver"]:
        driver = f"nvidia {told[0]['driver']}"
    return driver, [_gpu(each) for each in told]


def _said(text: str) -> str | None:
    """A field's text; None for `[N/A]`, `[Not Supported]`, `[Unknown Error]`."""
    text = text.strip()
    return None if not text or text.startswith("[") or text == "N/A" else text


def _gpu(told: dict[str, str | None]) -> dict[str, Json]:
    memory, power = told["memory"] or "", told["power_limit"] or ""
    return {
        "model": told["model"] or "",
        "vbios": told["vbios"] or "",
        "uuid_sha256": hashlib.sha256((told["uuid"] or "").encode()).hexdigest(),
        "memory": int(memory) << 20 if memory.isdigit() else None,  # nvidia-smi tells MiB
        "compute_capability": told["compute_capability"],
        "ecc": told["ecc"],
        "mig": told["mig"],
        "power_limit": float(power) if re.fullmatch(r"\d+(\.\d+)?", power) else None,
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
