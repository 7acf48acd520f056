"""What is recorded of a machine: from the files that kernels and drivers show, as they were seen on such machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import hardware
from orchestrator.judging import record_form
from tests.record_tools import HARDWARE

FILES = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: X\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 11\n"
    "GPU UUID: \t GPU-6a1c2d3e-0000-1111-2222-333344445555\nVideo BIOS: \t 92.00.45.00.03\nBus Type: \t PCIe\n",
}
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n"


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        (
            {"sys/fs/cgroup/cpu.max": "150000 100000\n", "sys/fs/cgroup/memory.max": "1073741824\n"},
            (1.5, 1 << 30),
        ),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}, (None, None)),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
            },
            (2.0, 1 << 29),
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            (None, None),
        ),
        ({}, (None, None)),
    ],
)
def test_the_limits_of_both_kinds_of_cgroup(
    tmp_path: Path, files: dict[str, str], limits: tuple[float | None, int | None]
) -> None:
    write(tmp_path, files)
    assert hardware.describe(tmp_path)["limits"] == {"cpus": limits[0], "memory": limits[1]}


def write(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def test_a_gpu_is_told_without_what_identifies_it(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    found = hardware.describe(tmp_path)
    assert found["gpu_driver"] == "nvidia 535.104.05"
    gpus: Any = found["gpus"]
    (gpu,) = gpus
    assert (gpu["model"], gpu["vbios"]) == ("NVIDIA A100-SXM4-40GB", "92.00.45.00.03")
    assert "6a1c2d3e" not in str(found) and len(str(gpu["uuid_sha256"])) == 64
    write(tmp_path, {"proc/driver/nvidia/version": OPEN})
    assert hardware.describe(tmp_path)["gpu_driver"] == "nvidia 550.54.14"


def test_this_machine_and_earlier_records_are_of_the_form(tmp_path: Path) -> None:
    statement = {"predicate": {"runDetails": {"mirage_hardware": hardware.describe()}}}
    faults = [str(each) for each in record_form.RECORD(statement, "") if "mirage_hardware" in each.path]
    assert faults == []
    assert hardware.describe(tmp_path / "nothing")["gpus"] == []
    statement = {"predicate": {"runDetails": {"mirage_hardware": HARDWARE}}}  # type: ignore[dict-item]
    faults = [str(each) for each in record_form.RECORD(statement, "") if "mirage_hardware" in each.path]
    assert faults == []
