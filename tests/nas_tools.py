"""A NAS and the machines that mount it, made from nothing: guests of QEMU with Debian's own kernel.

One guest exports folders by NFS and SMB, the others mount them. They talk to each other by datagrams over sockets in a
folder, and to the test by a port of this machine's loopback; nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
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
UP = 400.0  # seconds within which a guest is there; it takes ten, and a busy machine stalls
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
SERVE = """
set -e
modprobe -a nfsd ext4
for disk in vdc vdd; do
  mkdir -p /export/$disk
  blkid /dev/$disk > /dev/null || mkfs.ext4 -q -O quota -E quotatype=usrquota /dev/$disk
  mount -o usrquota /dev/$disk /export/$disk
  chmod 1777 /export/$disk
done
mkdir -p /export/vdc/.nfs && mount --bind /export/vdc/.nfs /var/lib/nfs
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/nfsdcld /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state
chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state
mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
echo 10 > /proc/fs/nfsd/nfsv4leasetime
echo 10 > /proc/fs/nfsd/nfsv4gracetime
echo 10 > /proc/sys/fs/lease-break-time
for disk in vdc vdd; do
  echo "/export/$disk 10.0.0.0/8(rw,sync,no_subtree_check,no_root_squash,fsid=$disk)"
done | sed 's/fsid=vdc/fsid=1/; s/fsid=vdd/fsid=2/' > /etc/exports
rpcbind -w
nfsdcld
exportfs -ra
rpc.mountd
rpc.statd
rpc.nfsd 8
mkdir -p /run/samba /var/log/samba
printf '[global]\\nserver role = standalone\\nload printers = no\\ndisable spoolss = yes\\nlog level = 0\\n\
server min protocol = SMB3\\n[share]\\npath = /export/vdc\\nread only = no\\n' > /etc/samba/smb.conf
printf 'nas\\nnas\\n' | smbpasswd -s -a root
smbd -D
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


class Nas:
    """A server and its clients."""

    def __init__(self, lab: Lab, disks: tuple[Path, Path], count: int) -> None:
        self.lab = lab
        self.disks = disks
        self.count = count
        self.clients: dict[int, Guest] = {}
        self.server: Guest

    def address(self, number: int) -> str:
        """The server's, for that client."""
        return f"10.1.{number}.1"

    def begin_server(self) -> None:
        """Switch it on, with its disks. By the thread that lives as long as it shall."""
        self.server = self.lab.start(
            "server", [f"server-client{each}" for each in range(self.count)], self.disks
        )

    def serve(self) -> None:
        """Wait until it is there, and let it export its disks."""
        self.server.wait(UP)
        for number in range(self.count):
            self.server.sh(
                f"ip link set eth{number + 1} up; ip address add {self.address(number)}/24 dev eth{number + 1}"
            )
        self.server.sh(SERVE, seconds=240)

    def begin_client(self, number: int) -> None:
        """Switch a client on, in the place of one that was cut off too."""
        self.clients[number] = self.lab.start(f"client{number}", [f"client{number}-server"])

    def join(self, number: int) -> None:
        """Wait until it is there, and let it speak to the server."""
        self.clients[number].wait(UP)
        self.clients[number].sh(
            f"hostname client{number}; ip link set eth1 up; ip address add 10.1.{number}.2/24 dev eth1;"
            "modprobe -a nfs nfsv4 nfsv3 cifs; rpcbind -w; rpc.statd"
        )

    def cut(self) -> None:
        """End all of them."""
        for guest in (self.server, *self.clients.values()):
            guest.cut()

    def mount(self, number: int, kind: str, where: str, *, disk: str = "vdc", options: str = "") -> None:
        """Mount an export on a client: "nfs4", "nfs3" or "smb3"."""
        own = {"nfs4": "vers=4.2", "nfs3": "vers=3", "smb3": "vers=3.1.1,username=root,password=nas"}[kind]
        words = ",".join(filter(None, (own, options)))
        source = (
            f"//{self.address(number)}/share" if kind == "smb3" else f"{self.address(number)}:/export/{disk}"
        )
        self.clients[number].sh(
            f"mkdir -p {where} && mount -t {'cifs' if kind == 'smb3' else 'nfs'} -o {words} {source} {where}"
        )


@contextmanager
def nas(folder: Path, *, clients: int = 2, made: Images | None = None) -> Iterator[Nas]:
    """A NAS with its clients, started; two minutes and more where there is no KVM."""
    made = made or images(folder)
    lab = Lab(folder, made, accelerator(made, folder))
    disks = (folder / "large.disk", folder / "small.disk")
    for path, size in zip(disks, (4096, 48), strict=True):
        path.unlink(missing_ok=True)
        with path.open("wb") as sink:
            sink.truncate(size << 20)
    with ExitStack() as stack:
        place = Nas(lab, disks, clients)
        place.begin_server()
        stack.callback(place.cut)
        for number in range(clients):
            place.begin_client(number)
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(place.serve),
                *(pool.submit(place.join, number) for number in range(clients)),
            ]
        for each in begun:
            each.result()
        yield place
    for path in disks:
        path.unlink()
