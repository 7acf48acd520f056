"""What the run ran on: processor, memory, kernel, GPUs; no names, no addresses, no serial numbers.

Read from /proc and /sys alone: no library, and nothing of a GPU's that its driver does not tell there (its number of
multiprocessors and its power limit are not recorded).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path

from orchestrator.canonical import Json

_TELLING_FLAGS = ("avx2", "avx512f", "amx_tile", "sha_ni", "fma")


def describe(root: Path = Path("/")) -> dict[str, Json]:
    """The machine's hardware class; memory in bytes. ``limits`` are those of the cgroup that Mirage itself runs in."""
    cpu = _first_processor(root)
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
        "gpu_driver": _gpu_driver(root),
        "gpus": _gpus(root),
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


def _gpus(root: Path) -> list[Json]:
    """NVIDIA's GPUs in the order of their PCI addresses; their UUIDs only hashed."""
    found: list[Json] = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        told = _pairs(_read(path))
        uuid = hashlib.sha256(told.get("GPU UUID", "").encode()).hexdigest()
        found.append(
            {"model": told.get("Model", ""), "vbios": told.get("Video BIOS", ""), "uuid_sha256": uuid}
        )
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
