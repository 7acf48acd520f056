"""Whole commands, timed and weighed by a small process of its own: a child's peak memory begins with that of who started it."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

# getrusage(2): the peak of a process that calls execve(2) is kept, so a large parent would be every child's least.
_STARTER = """
import json, os, subprocess, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    with open(asked["log"], "ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            asked["argv"], cwd=asked["cwd"], env=asked["env"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = 0
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps([code, seconds, usage.ru_maxrss >> 10, usage.ru_utime + usage.ru_stime]), flush=True)
"""

_PAGE, _BLOCK = mmap.PAGESIZE, 1 << 20
_LEFT = 1 << 30  # bytes


class Taken(NamedTuple):
    """What a command took: seconds, MiB of its largest process, seconds of CPU of all of them."""

    seconds: float
    memory: int
    cpu: float


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let this machine keep the memory that it has free: what is timed shall not pay for what its host took back.

    A virtual machine reports free blocks of 2 MiB to its host every two seconds, and gets them back page by page, at
    up to 2 s for a GiB (Linux, mm/page_reporting.c). So all but a GiB of what is available is taken once, and all but one
    page of each MiB is freed again: no free block is that large from then on.
    """
    with open("/proc/meminfo") as lines:
        (available,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    size = max(1, (available - _LEFT) // _BLOCK) * _BLOCK
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken.madvise(mmap.MADV_NOHUGEPAGE)
        first = ctypes.c_char.from_buffer(taken)
        ctypes.memset(ctypes.addressof(first), 1, size)
        del first
        for start in range(0, size, _BLOCK):
            taken.madvise(mmap.MADV_DONTNEED, start + _PAGE, _BLOCK - _PAGE)
        yield


class Starter:
    """Starts one command after the other."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> Starter:
        self._process = subprocess.Popen(
            [sys.executable, "-SEc", _STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, argv: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> Taken:
        """Run a command to its end, with nothing dirty. SystemExit where it fails."""
        os.sync()
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {
            "argv": [str(each) for each in argv],
            "cwd": str(cwd),
            "env": dict(env),
            "log": str(self._log),
        }
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        code, seconds, memory, cpu = json.loads(self._process.stdout.readline())
        if code != 0:
            said = self._log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"{' '.join(asked['argv'])} ended with {code}: {said}")
        return Taken(seconds, memory, cpu)
