"""What is recorded of a machine: from the files that kernels and drivers show, as they were seen on such machines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import hardware
from orchestrator.judging import record_form, sources
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


SMI = """#!/bin/sh
echo "$@" >> "$0.asked"
[ -e "$0.broken" ] && { echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9; }
printf 'GPU-6a1c2d3e-0000-1111-2222-333344445555, NVIDIA A100-SXM4-40GB, 92.00.45.00.03, '
echo '550.54.14, 40960, 8.0, Enabled, Disabled, 400.00'
echo 'GPU-7b1c2d3e-0000-1111-2222-333344445555, Tesla T4, [N/A], 550.54.14, 15360, 7.5, [N/A], [N/A], [Not Supported]'
"""


def test_the_driver_tells_more_of_gpus_where_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {**FILES, "bin/nvidia-smi": SMI})
    program = tmp_path / "bin" / "nvidia-smi"
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert hardware.describe(tmp_path)["gpu_driver"] == "nvidia 535.104.05"
    assert not program.with_name("nvidia-smi.asked").exists()  # a run without GPUs does not wait for it
    found: Any = hardware.describe(tmp_path, ask_driver=True)
    assert found["gpu_driver"] == "nvidia 550.54.14"
    big, small = found["gpus"]
    assert (big["model"], big["memory"], big["power_limit"]) == ("NVIDIA A100-SXM4-40GB", 40 << 30, 400.0)
    assert (big["compute_capability"], big["ecc"], big["mig"]) == ("8.0", "Enabled", "Disabled")
    assert (small["ecc"], small["mig"], small["power_limit"], small["vbios"]) == (None, None, None, "")
    assert "6a1c2d3e" not in str(found) and "7b1c2d3e" not in str(found)
    statement = {"predicate": {"runDetails": {"mirage_hardware": found}}}
    assert not [each for each in record_form.RECORD(statement, "") if "mirage_hardware" in each.path]
    program.with_name("nvidia-smi.broken").touch()
    plain = hardware.describe(tmp_path)
    assert hardware.describe(tmp_path, ask_driver=True) == plain  # what the files tell stays
    program.unlink()
    assert hardware.describe(tmp_path, ask_driver=True) == plain


def test_another_gpu_is_a_source_of_differences_and_another_card_of_its_kind_is_none() -> None:
    def record(model: str, uuid: str) -> Any:
        card = {"model": model, "vbios": "", "uuid_sha256": uuid, "memory": 40 << 30, "ecc": "Enabled"}
        told = {**HARDWARE, "gpu_driver": "nvidia 550.54.14", "gpus": [card]}  # type: ignore[dict-item]
        return SimpleNamespace(details={"mirage_hardware": told}, internal={"sandbox": {}})

    first = record("A100", "a")
    assert list(sources._hardware(first, record("A100", "b"))) == []
    (said,) = sources._hardware(first, record("H100", "a"))
    assert "the GPUs (A100 (ecc Enabled, 40.0 GiB) became H100 (ecc Enabled, 40.0 GiB))" in said


def test_this_machine_and_earlier_records_are_of_the_form(tmp_path: Path) -> None:
    statement = {"predicate": {"runDetails": {"mirage_hardware": hardware.describe()}}}
    faults = [str(each) for each in record_form.RECORD(statement, "") if "mirage_hardware" in each.path]
    assert faults == []
    assert hardware.describe(tmp_path / "nothing")["gpus"] == []
    statement = {"predicate": {"runDetails": {"mirage_hardware": HARDWARE}}}  # type: ignore[dict-item]
    faults = [str(each) for each in record_form.RECORD(statement, "") if "mirage_hardware" in each.path]
    assert faults == []
