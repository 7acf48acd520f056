"""What the run ran on: processor, memory, kernel; no names, no addresses, no serial numbers."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from orchestrator.canonical import Json

_TELLING_FLAGS = ("avx2", "avx512f", "amx_tile", "sha_ni", "fma")


def describe() -> dict[str, Json]:
    """The machine's hardware class; memory in bytes."""
    cpu = _first_processor()
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
    }


def _first_processor() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
