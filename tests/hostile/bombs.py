"""Workflows that eat: processes, memory, the disk. Each in a container of its own, with limits that it will meet."""

from __future__ import annotations

import errno
import os
import sys
import time


def processes() -> None:
    """Fork until the limit; every child forks on."""
    count = 0
    while True:
        try:
            if os.fork() == 0:
                while True:
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(60)
            count += 1
        except OSError as error:
            print(f"forked until {errno.errorcode[error.errno or 0]}", flush=True)
            time.sleep(0.5)
            os._exit(7)


def memory() -> None:
    """Take memory, and touch it."""
    kept = []
    while True:
        kept.append(b"x" * (8 << 20))


def shared_memory() -> None:
    """Fill what is in memory and looks like a disk."""
    for path in ("/dev/shm/x", "/tmp/x", "/mirage/tmp/x"):
        with open(path, "wb") as sink:
            while True:
                sink.write(b"x" * (8 << 20))


def disk() -> None:
    """Fill the outbox's disk, then try to save."""
    from mirage import artifact

    artifact.File.save("before", name="before")
    try:
        with open("/mirage/out/x", "wb", buffering=0) as sink:
            while True:
                sink.write(b"x" * (1 << 20))
    except OSError as error:
        print(f"filled until {errno.errorcode[error.errno or 0]}", flush=True)
    print("x" * 20_000, flush=True)
    sys.exit(5)


def trickle() -> None:
    """Fill the outbox little by little, after something was saved."""
    from mirage import artifact

    artifact.File.save("before", name="before")
    for number in range(1000):
        with open(f"/mirage/out/{number}", "wb") as sink:
            sink.write(b"x" * (1 << 20))
        time.sleep(0.03)


if __name__ == "__main__":
    {
        "processes": processes,
        "memory": memory,
        "shared": shared_memory,
        "disk": disk,
        "trickle": trickle,
    }[sys.argv[-1]]()
