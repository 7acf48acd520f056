"""Whole commands, timed and weighed by a small process of its own: a child's peak memory begins with that of who started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


_WARM = 5 << 30  # bytes; what a step writes, on both sides of a connection


class Taken(NamedTuple):
    """What a command took: seconds, MiB of its largest process, seconds of CPU of all of them."""

    seconds: float
    memory: int
    cpu: float


def settled() -> None:
    """Give all programs the same machine: nothing dirty, and memory that it has.

    A virtual machine may have to ask its host for memory page by page, and gives back what is free after some seconds:
    who then writes 2 GiB first waits up to ten times as long as the next.
    """
    os.sync()
    subprocess.run([sys.executable, "-SEc", f"bytearray({_WARM})"], check=True)


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
        """Run a command to its end, after ``settled``. SystemExit where it fails."""
        settled()
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
