"""Machines of a test's own, made from nothing: guests of QEMU with Debian's own kernel, in which commands are carried out.

They talk to each other by datagrams over sockets in a folder, and to the test by a port of this machine's loopback;
nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.digest import of_bytes
from orchestrator.image.mmdebstrap import Recipe, build_rootfs
from tests.nas_agent import PORT

HERE = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("cifs-utils", "e2fsprogs", "initramfs-tools", "iproute2", "kmod", "linux-image-cloud-amd64", "mount"),
    *(
        "nfs-common",
        "nfs-kernel-server",
        "nftables",
        "procps",
        "python3",
        "quota",
        "rpcbind",
        "samba",
        "udev",
    ),
)
# What the guests' tests do not use, and would only make their image larger.
UNUSED = ("*mypy*", "numpy*", "pyarrow*", "pip*", "ruff*", "__pycache__", "setuptools*")
INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
modprobe -a virtio_net
mount -o ro /dev/vdb /mirage
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
export PYTHONPATH=/mirage:/mirage/packages PYTHONDONTWRITEBYTECODE=1 MIRAGE_SIGN_KEY=none
cd /mirage
exec python3 -S /mirage/tests/{Path(__file__).with_name("nas_agent.py").name}
"""


@dataclass(frozen=True)
class Done:
    """How a command in a guest ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed as its last line."""
        return json.loads(self.out.splitlines()[-1])


class Guest:
    """A machine that runs; its process is this test's."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, console: Path) -> None:
        self.name = name
        self._process = process
        self._port = port
        self._console = console
        self._pool = ThreadPoolExecutor(16)

    def run(
        self,
        *argv: str,
        seconds: float = 120.0,
        uid: int = 0,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Done:
        """Carry out a command. AssertionError where it fails, unless that is not asked for; OSError where the guest dies."""
        with socket.create_connection(("127.0.0.1", self._port), seconds + 60) as line:
            asked = {"argv": argv, "env": dict(env or {}), "seconds": seconds, "uid": uid}
            line.sendall(json.dumps(asked).encode() + b"\n")
            with line.makefile("rb") as source:
                answer = source.readline()
        if not answer:
            raise ConnectionResetError(f"{self.name} went away: {self.said()}")
        done = Done(**json.loads(answer))
        assert not check or done.code == 0, (
            f"{self.name}: {argv} ended with {done.code}\n{done.out[-4000:]}\n{done.err[-8000:]}"
        )
        return done

    def sh(self, script: str, *, seconds: float = 120.0, uid: int = 0, check: bool = True) -> str:
        """Carry out a shell script; gives what it printed."""
        return self.run("sh", "-c", script, seconds=seconds, uid=uid, check=check).out

    def work(self, *words: str, seconds: float = 300.0, uid: int = 0, check: bool = True) -> Done:
        """Do a part of tests/nas_work.py there."""
        return self.run("python3", "-m", "tests.nas_work", *words, seconds=seconds, uid=uid, check=check)

    def starts(self, *words: str, seconds: float = 300.0, uid: int = 0, check: bool = True) -> Future[Done]:
        """The same, beside what else goes on."""
        return self._pool.submit(self.work, *words, seconds=seconds, uid=uid, check=check)

    def said(self) -> str:
        """The end of what its kernel said."""
        return self._console.read_text(errors="replace")[-3000:]

    def wait(self, seconds: float) -> None:
        """Until its agent answers. AssertionError where it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._process.poll() is None, f"{self.name} ended while it began: {self.said()}"
            with suppress(OSError):
                self.run("true", seconds=5)
                # a guest's clock begins with that of this machine, in whole seconds
                self.run("date", "-s", f"@{time.time():.3f}", seconds=5)
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.name} did not come up in {seconds} s: {self.said()}")

    def cut(self) -> None:
        """Take its power away."""
        self._process.kill()
        self._process.wait(60)
        self._pool.shutdown(wait=False)


@dataclass(frozen=True)
class Images:
    """What guests are started from: a kernel, its first file system, Debian, and Mirage with its packages."""

    kernel: Path
    initrd: Path
    root: Path
    code: Path


def images(folder: Path) -> Images:
    """Make what guests need; a minute. What is in the folder already stays, but the code."""
    made = Images(folder / "vmlinuz", folder / "initrd", folder / "root.img", folder / "code.img")
    if not made.root.exists():
        recipe = Recipe("nas", "bookworm", "minbase", PACKAGES, ("main",), "3.11", of_bytes(b""))
        build_rootfs(recipe, folder / "root.tar", report=lambda line: None)
        root = folder / "root"
        root.mkdir()
        _called("tar", "-C", root, "-xf", folder / "root.tar", "--exclude=dev/*")
        (root / "mirage").mkdir()
        init = root / "sbin" / "nas-init"
        init.write_text(INIT)
        init.chmod(0o755)
        for kind, path in (("vmlinuz", made.kernel), ("initrd.img", made.initrd)):
            (found,) = (root / "boot").glob(f"{kind}-*")
            shutil.copy(found, path)
        _image(root, made.root)
        shutil.rmtree(root)
        (folder / "root.tar").unlink()
    code = folder / "code"
    shutil.rmtree(code, ignore_errors=True)
    for name in ("orchestrator", "mirage", "tests"):
        shutil.copytree(HERE / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert sys.version_info[:2] == (3, 11), (
        "the guests have the Python of Debian 12, and get this one's packages"
    )
    (packages,) = {Path(path) for path in sys.path if path.endswith("site-packages")}
    shutil.copytree(packages, code / "packages", ignore=shutil.ignore_patterns(*UNUSED), symlinks=True)
    _called(
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        code,
        "-s",
        code,
        "-p",
        "/mirage",
    )
    _image(code, made.code)
    shutil.rmtree(code)
    return made


def _image(folder: Path, image: Path) -> None:
    """A file system of a folder's files."""
    image.unlink(missing_ok=True)
    used = int(_called("du", "-sm", folder).split()[0])
    _called("mkfs.ext4", "-q", "-d", folder, "-m", "0", image, f"{used * 5 // 4 + 200}M")


def _called(*argv: str | Path) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{argv}: {done.stderr[-2000:]}"
    return done.stdout


@dataclass(frozen=True)
class Lab:
    """Where guests are started, and from what."""

    folder: Path
    images: Images
    accelerator: str

    def start(self, name: str, lines: Sequence[str], disks: Sequence[Path] = (), memory: int = 640) -> Guest:
        """Start a guest whose network cards are the ends of ``lines``, "a-b" for the end of a towards b."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        argv = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            *self.accelerator.split(),
            "-m",
            str(memory),
            "-smp",
            "1",
            "-no-reboot",
        ]
        argv += ["-nodefaults", "-display", "none", "-serial", f"file:{self.folder / name}.console"]
        argv += ["-kernel", str(self.images.kernel), "-initrd", str(self.images.initrd)]
        argv += [
            "-append",
            "console=ttyS0 quiet panic=-1 root=/dev/vda rw init=/sbin/nas-init net.ifnames=0 mitigations=off",
        ]
        for path in (self.images.root, self.images.code):
            argv += ["-drive", f"file={path},if=virtio,format=raw,snapshot=on"]
        for path in disks:
            argv += ["-drive", f"file={path},if=virtio,format=raw,cache=writeback"]
        argv += ["-netdev", f"user,id=test,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{PORT}"]
        argv += ["-device", "virtio-net-pci,netdev=test,romfile="]
        for number, line in enumerate(lines):
            here, there = self.folder / line, self.folder / "-".join(reversed(line.split("-")))
            here.unlink(missing_ok=True)
            ends = f"local.type=unix,local.path={here},remote.type=unix,remote.path={there}"
            argv += ["-netdev", f"dgram,id=line{number},{ends}"]
            own = sum(map(ord, line))
            argv += [
                "-device",
                f"virtio-net-pci,netdev=line{number},romfile=,mac=52:54:00:00:{own >> 8:02x}:{own & 255:02x}",
            ]
        console = self.folder / f"{name}.console"
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        return Guest(name, process, port, console)


def accelerator(made: Images, folder: Path) -> str:
    """KVM where a kernel begins under it, and not only where there is a device; else QEMU's own translation."""
    kvm = "-accel kvm -cpu host"
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        guest = Lab(folder, made, kvm).start("trial", ())
        try:
            guest.wait(20)
            return kvm
        except AssertionError:
            pass
        finally:
            guest.cut()
    return "-accel tcg,thread=multi -cpu max"
