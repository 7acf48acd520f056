#!/usr/bin/env python3
"""Other engines than this machine's own, for checks that an image is the same on all: a newer Docker with the
containerd image store, and podman. Both come from a newer Debian suite, in a root of their own.

    scripts/engines.py root containerd|podman          make its root (once)
    scripts/engines.py exec containerd|podman -- CMD   start that engine, run CMD with DOCKER_HOST, end it

The engine runs in mount and process namespaces of its own with that root (pivot_root: in a plain chroot `docker exec` would enter
this machine's root), sees this machine's other top-level folders at their own paths, keeps its data in a folder that
is gone afterwards, and touches neither this machine's firewall nor its other engine: containers that need a
network ask for `host`. Needs root. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from orchestrator.image import debian
from scripts import packages
from scripts.packages import Missing, say

SUITE = "forky"
_RECIPE = "2"  # counts up when the same packages would give another root
PACKAGES = {
    "containerd": ("base-files", "ca-certificates", "containerd", "docker.io", "iptables", "mount", "runc"),
    "podman": (
        "base-files",
        "ca-certificates",
        "catatonit",
        "crun",
        "iptables",
        "mount",
        "netavark",
        "podman",
    ),
}
START_SECONDS = 60
# What a system has of its own; everything else at the top of this machine is shown to the engine at its own path.
_OWN = {
    "bin",
    "boot",
    "dev",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "lost+found",
    "opt",
    "proc",
    "run",
    "sbin",
}
_OWN |= {"sys", "usr", "var"}
_INSIDE = r"""
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/proc"
mount -t proc proc "$root/proc"
for name in sys dev $1; do
  mkdir -p "$root/$name"
  mount --rbind "/$name" "$root/$name"
done
shift
if [ "$1" = podman ] && [ -d /sys/fs/cgroup/unified ]; then
  # podman 5 runs on cgroup v2 alone; with limits off it needs the hierarchy and none of its controllers
  umount -l "$root/sys/fs/cgroup"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/.outside"
for name in resolv.conf hosts; do
  [ -e "/etc/$name" ] || continue
  : > "$root/etc/$name"
  mount --bind "/etc/$name" "$root/etc/$name"
done
cd "$root"
pivot_root . .outside
umount -l /.outside
mount --make-rshared /
# the first of its own processes: takes in what a dead parent leaves (conmon, shims), and all ends with it
"$@" &
engine=$!
trap 'kill -TERM $engine' TERM
while kill -0 $engine 2>/dev/null; do
  wait $engine || true
done
"""


def folder() -> Path:
    """Where roots and the data of engines that run are."""
    top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirage-engines"
    top.mkdir(mode=0o755, parents=True, exist_ok=True)
    return top


def root(kind: str) -> Path:
    """The root with an engine in it, made now where it is not there. Raises Missing."""
    if os.geteuid() != 0:
        raise Missing("other engines can only be started by root", "sudo")
    packages.ensure(["mmdebstrap", "iproute2"])
    name = hashlib.sha256(" ".join((_RECIPE, SUITE, *PACKAGES[kind])).encode()).hexdigest()[:12]
    target = folder() / f"{kind}-root-{name}"
    with (folder() / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            say(f"making a root with {kind} from Debian {SUITE} (once)")
            _make(target, PACKAGES[kind])
    return target


def _make(target: Path, wanted: Sequence[str]) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        options = Path(name) / "apt.conf"
        options.write_text(debian.apt_options() + 'Acquire::Check-Valid-Until "false";\n')
        command = ["mmdebstrap", "--variant=extract", "--mode=root", f"--include={','.join(wanted)}"]
        command += [f"--aptopt={options}", "--skip=output/dev"]
        command += [f"--keyring={path}" for path in debian.KEYRINGS if path.exists()]
        command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
        command += ["--dpkgopt=path-exclude=/usr/share/locale/*", SUITE, str(part)]
        sources = debian.sources(SUITE, ("main",))
        if sources:
            listed = Path(name) / "sources.list"
            listed.write_text(sources)
            command.append(str(listed))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(part, ignore_errors=True)
        raise Missing(
            "the root with other engines could not be made:\n" + done.stderr[-2000:],
            f"does this machine's Debian mirror have {SUITE}?",
        )
    part.rename(target)


@contextmanager
def engine(kind: str) -> Iterator[str]:
    """An engine that answers, as DOCKER_HOST; it and its data are gone afterwards. Raises Missing."""
    system = root(kind)
    place = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=folder()))
    place.chmod(0o755)
    address = place / "docker.sock"
    shown = sorted(each.name for each in Path("/").iterdir() if each.name not in _OWN and _is_folder(each))
    own = _mounted(folder(), shown)
    bridge = f"br{os.getpid()}"[:15]
    # ends where we die, too, and all that it started with it
    command = ["setpriv", "--pdeathsig", "KILL"]
    command += ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    command += ["sh", "-c", _INSIDE, "sh"]
    command += [str(system), " ".join([*shown, *own])]
    command += _docker(place, address, bridge) if kind == "containerd" else _podman(place, address)
    env = {"PATH": packages.SYSTEM_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    env |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    if kind == "podman":
        env |= {"CONTAINERS_CONF": str(place / "containers.conf")}
        env |= {"CONTAINERS_STORAGE_CONF": str(place / "storage.conf")}
    process: subprocess.Popen[bytes] | None = None
    try:
        if kind == "containerd":
            _bridge(bridge)
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
        _wait(process, address, place / "log")
        yield f"unix://{address}"
    finally:
        if process is not None:
            _end(process)
        if kind == "containerd":
            with suppress(Missing):
                _ip("link", "delete", bridge)
        shutil.rmtree(place, ignore_errors=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _mounted(top: Path, shown: Sequence[str]) -> list[str]:
    """The folder of our own data, where it lies below a part of the system that the root has itself."""
    parts = top.resolve().parts
    return [] if parts[1] in shown else [str(top.resolve()).lstrip("/")]


def _docker(place: Path, address: Path, bridge: str) -> list[str]:
    words = ["dockerd", "--feature", "containerd-snapshotter=true", "--data-root", str(place / "data")]
    words += ["--exec-root", str(place / "exec"), "--pidfile", str(place / "pid"), "-H", f"unix://{address}"]
    words += ["--bridge", bridge, "--iptables=false", "--ip6tables=false"]
    return words


def _podman(place: Path, address: Path) -> list[str]:
    (place / "containers.conf").write_text(
        '[containers]\ncgroups = "disabled"\ndefault_ulimits = []\n'
        '[engine]\nruntime = "crun"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        f'tmp_dir = "{place / "tmp"}"\n'
    )
    (place / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{place / "data"}"\nrunroot = "{place / "exec"}"\n'
    )
    return ["podman", "system", "service", "--time", "0", f"unix://{address}"]


def _ip(*words: str) -> str:
    """Ask or tell ip(8); gives what it prints. Raises Missing."""
    program = packages.program("ip")
    if program is None:
        raise Missing("ip is missing, which makes the engine's bridge", "apt-get install iproute2")
    done = subprocess.run([program, *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"ip {' '.join(words)}: {done.stderr.strip()}", "may this machine make bridges?")
    return done.stdout


def _bridge(name: str) -> None:
    """A bridge of the engine's own: one without a bridge removes the other engine's."""
    taken = _ip("-4", "addr")
    free = next(f"10.249.{third}." for third in range(20, 250) if f"10.249.{third}." not in taken)
    _ip("link", "add", name, "type", "bridge")
    _ip("addr", "add", f"{free}1/24", "dev", name)
    _ip("link", "set", name, "up")


def _wait(process: subprocess.Popen[bytes], address: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(str(address))
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            if b" 200 " in probe.recv(64):
                return
        time.sleep(0.1)
    tail = log.read_text("utf-8", "replace")[-3000:]
    raise Missing(f"the engine did not start:\n{tail}", "see what it says above")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the engine, and with it whatever it started: unshare(1) waits for the first of its processes, which is told."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(kind: str, command: Sequence[str]) -> int:
    """Run a command with that engine; gives its exit code."""
    with engine(kind) as host:
        env = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return subprocess.run(list(command), env={**env, "DOCKER_HOST": host}).returncode


def main(argv: Sequence[str]) -> int:
    """The command line; 2 for a wrong one, 8 where there is no such engine."""
    try:
        if len(argv) == 2 and argv[0] == "root" and argv[1] in PACKAGES:
            print(root(argv[1]))
            return 0
        if len(argv) > 3 and argv[0] == "exec" and argv[1] in PACKAGES and argv[2] == "--":
            return run(argv[1], argv[3:])
    except Missing as error:
        say(f"error: {error}\n  -> {error.hint}")
        return 8
    say(__doc__ or "")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
