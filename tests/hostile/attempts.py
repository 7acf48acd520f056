"""A workflow that tries to get out of its container, and says of each attempt what it was answered.

Runs inside a run's container as a module of its own: the standard library only. An answer is the name of the errno,
or what came of it; whether that is fine is the test's to say.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
FOUND: dict[str, str] = {}
# x86-64 and arm64 numbers of calls that the C library has no name for
ARM = os.uname().machine == "aarch64"
NUMBERS = {
    "bpf": 280 if ARM else 321,
    "perf_event_open": 241 if ARM else 298,
    "add_key": 217 if ARM else 248,
    "request_key": 218 if ARM else 249,
    "keyctl": 219 if ARM else 250,
    "kexec_load": 104 if ARM else 246,
    "init_module": 105 if ARM else 175,
    "pivot_root": 41 if ARM else 155,
    "open_by_handle_at": 265 if ARM else 304,
    "userfaultfd": 282 if ARM else 323,
    "fanotify_init": 262 if ARM else 300,
    "clone3": 435,
    "move_mount": 429,
    "open_tree": 428,
    "fsopen": 430,
    "process_vm_writev": 271 if ARM else 311,
    "quotactl": 60 if ARM else 179,
    "kcmp": 272 if ARM else 312,
    "ptrace": 117 if ARM else 101,
}


def attempt(name: str, action: Callable[[], object]) -> None:
    """Try it and keep the answer."""
    try:
        answer = action()
    except OSError as error:
        FOUND[name] = errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:
        FOUND[name] = f"{type(error).__name__}: {error}"
    else:
        FOUND[name] = "done" if answer is None else str(answer)


def call(name: str, *arguments: Any) -> int:
    """A call of the C library, or a system call by its number; OSError where it is refused."""
    ctypes.set_errno(0)
    if name in NUMBERS:
        words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
        answer = libc.syscall(NUMBERS[name], *words)
    else:
        answer = getattr(libc, name)(*arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return int(answer)


def write(path: str) -> Callable[[], object]:
    """Overwrite a file."""

    def action() -> None:
        with open(path, "w") as sink:
            sink.write("1")

    return action


def content(path: str) -> Callable[[], object]:
    """The beginning of a file."""

    def action() -> str:
        with open(path, "rb") as source:
            return "read " + repr(source.read(64))

    return action


def connect(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> Callable[[], object]:
    """Connect somewhere."""

    def action() -> None:
        with socket.socket(family, kind) as plug:
            plug.settimeout(2)
            plug.connect(address)

    return action


def made_then_gone(path: str, action: Callable[[], object]) -> Callable[[], object]:
    """Make something, and remove it."""

    def whole() -> None:
        action()
        os.unlink(path)

    return whole


def abstract_sockets() -> str:
    """Sockets without a file that others listen on (containerd's shims had theirs there: CVE-2020-15257)."""
    with open("/proc/net/unix") as lines:
        return "seen " + " ".join(line.split()[-1] for line in lines if "@" in line)


def strangers() -> str:
    """Processes of others."""
    own = {"1", str(os.getpid()), str(os.getppid())}
    return "seen " + " ".join(sorted({os.path.basename(p) for p in glob.glob("/proc/[0-9]*")} - own))


def leaked() -> str:
    """Directories that an open descriptor shows (CVE-2024-21626)."""
    open_ones = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}
    return "seen " + " ".join(sorted(each for each in open_ones if os.path.isdir(each)))


def _is_open(fd: str) -> bool:
    # the listing's own descriptor is shut by now
    return os.path.lexists(f"/proc/self/fd/{fd}")


def devices() -> str:
    """Device nodes that open, beyond the harmless ones."""
    harmless = {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "console",
        "stdin",
        "stdout",
        "stderr",
    }
    found = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) and name not in harmless:
                found.append(path)
    return "seen " + " ".join(sorted(each for each in found if not each.startswith("/dev/pts/")))


def setuid_programs() -> str:
    """What becomes of a program that belongs to root and has the setuid bit."""
    found = []
    for folder in ("/bin", "/usr/bin", "/sbin", "/usr/sbin", "/usr/lib"):
        for inner, _, names in os.walk(folder):
            found += [
                path
                for name in names
                if os.path.isfile(path := os.path.join(inner, name))
                and os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID)
            ]
    gained = []
    for path in found:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        try:
            while os.write(writing, b"x" * 4096):
                pass
        except BlockingIOError:
            os.set_blocking(writing, True)  # full: the program waits there, and can be looked at
        child = os.posix_spawn(
            path, [path, "--help"], {},
            file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_DUP2, writing, 2)],
        )  # fmt: skip
        time.sleep(0.05)
        with open(f"/proc/{child}/status") as lines:
            gained += [path for line in lines if line.startswith("Uid:") and "0" in line.split()[1:]]
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    return "seen " + " ".join(gained)


def handle() -> int:
    """Open the host's root by a file handle, as the 'shocker' did."""
    buffer = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0", 16)
    root = os.open("/etc/hosts", os.O_RDONLY)  # a bind mount: a descriptor on the host's file system
    return call("open_by_handle_at", root, buffer, os.O_RDONLY)


def trace() -> str:
    """Attach to every process that is not of this container's own making."""
    attached = []
    for path in glob.glob("/proc/[0-9]*"):
        pid = int(os.path.basename(path))
        if pid in (1, os.getpid()):
            continue
        try:
            call("ptrace", 16, pid, 0, 0)
            attached.append(pid)
        except OSError:
            pass
    return f"seen {attached or ''}"


def kill_others() -> str:
    """Signal every pid that there could be, but the container's own."""
    reached = []
    for pid in range(2, 40_000):
        if pid == os.getpid():
            continue
        try:
            os.kill(pid, 0)
            reached.append(pid)
        except OSError:
            pass
    return f"seen {reached or ''}"


def capability() -> None:
    """Ask for all capabilities back."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(*([0xFFFFFFFF] * 6))
    call("capset", header, data)


def run_from_tmp() -> None:
    """Execute a file of /tmp."""
    with open("/tmp/run.sh", "w") as sink:
        sink.write("#!/bin/sh\nexit 0\n")
    os.chmod("/tmp/run.sh", 0o755)
    child = os.posix_spawn("/tmp/run.sh", ["/tmp/run.sh"], {})
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise OSError(errno.EACCES, "exec")


def setuid_of_our_own() -> str:
    """A setuid copy of a shell in the outbox, run: whose it is, it already was."""
    path = "/mirage/out/sh"
    with open("/bin/sh", "rb") as source, open(path, "wb") as sink:
        sink.write(source.read())
    os.chmod(path, 0o6755)
    reading, writing = os.pipe()
    child = os.posix_spawn(
        path,
        [path, "-p", "-c", "grep ^Uid: /proc/self/status"],
        {"PATH": os.environ["PATH"]},
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as source:
        uids = set(source.read().split()[1:])
    os.unlink(path)
    return "became root" if "0" in uids else "stays itself"


def write_memory_of_init() -> None:
    """Write into the memory of process 1, which is of the engine's making."""
    with open("/proc/1/mem", "r+b", buffering=0) as memory:
        memory.seek(4096)
        memory.write(b"x")


def bind_over_inputs() -> None:
    """Make the inputs writable by mounting them again."""
    call("mount", b"none", b"/mirage/in", b"none", 0x20 | 0x1000, None)


def link_an_input() -> None:
    """Bring an input's blob into the outbox by hard link, where it could be written."""
    os.link("/mirage/in/trees/0/data.json", "/mirage/out/linked")


def flag_an_input() -> None:
    """Take the input's read-only mode away, then write."""
    os.chmod("/mirage/in/trees/0/data.json", 0o666)
    write("/mirage/in/trees/0/data.json")()


def proc_fd_of_an_input() -> None:
    """Open an input for writing through the descriptor that reads it."""
    reading = os.open("/mirage/in/trees/0/data.json", os.O_RDONLY)
    os.close(os.open(f"/proc/self/fd/{reading}", os.O_RDWR))


def gateway() -> Callable[[], object]:
    """The engine's bridge, where the host and other containers are."""
    return connect(socket.AF_INET, ("172.17.0.1", 22))


def interfaces() -> str:
    """Network interfaces beyond loopback, and idle tunnels that some kernels give to every namespace."""
    names = {name for _, name in socket.if_nameindex()} - {"lo"}
    up = [n for n in sorted(names) if int(Path(f"/sys/class/net/{n}/flags").read_text(), 16) & 1]
    return "seen " + " ".join(up)


def others_inputs() -> str:
    """What of the store, the project or other runs can be seen anywhere."""
    hits = []
    for top in ("/mirage", "/workspace", "/home", "/root", "/mnt", "/srv", "/media", "/run", "/var/run"):
        for folder, names, files in os.walk(top):
            hits += [
                os.path.join(folder, n)
                for n in (*names, *files)
                if n in ("blobs", "store.json", "journal", "docker.sock", ".mirage")
            ]
    return "seen " + " ".join(sorted(each for each in hits if each != "/workspace/.mirage"))


def limits() -> str:
    """Raise a hard limit."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    return "raised"


def attempts() -> None:
    """All of them, in order of what they are after."""
    for path in (
        "/x", "/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/usr/bin/x", "/opt/venv/x", "/workspace/x", "/mirage/x",
        "/mirage/sdk/mirage/__init__.py", "/mirage/config.json", "/mirage/in/x", "/mirage/in/inputs.json",
        "/mirage/in/trees/0/data.json", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/power/state", "/dev/mem", "/dev/kmsg", "/dev/sda",
        "/proc/1/exe", "/proc/self/exe",
    ):  # fmt: skip
        attempt(f"write {path}", write(path))
    for path in glob.glob("/sys/fs/cgroup/*/release_agent") + glob.glob("/sys/fs/cgroup/*.max") or [
        "/sys/fs/cgroup/x"
    ]:
        attempt(f"write {path}", write(path))
    for path in (
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/etc/shadow",
        "/proc/1/root/etc/shadow",
    ):
        attempt(f"read {path}", content(path))
    attempt("firmware", lambda: "seen " + " ".join(os.listdir("/sys/firmware")))
    attempt("an input by chmod", flag_an_input)
    attempt("an input by hard link", link_an_input)
    attempt("an input by /proc/self/fd", proc_fd_of_an_input)
    attempt("an input by remount", bind_over_inputs)
    attempt(
        "replace an input", lambda: os.rename("/mirage/in/trees/0/data.json", "/mirage/in/trees/0/other.json")
    )
    attempt("others' files", others_inputs)
    attempt("setuid", lambda: os.setuid(0))
    attempt("setgid", lambda: os.setgid(0))
    attempt("setgroups", lambda: os.setgroups([0]))
    attempt("chown", lambda: os.chown("/mirage/out", 0, 0))
    attempt("capset", capability)
    attempt("setuid programs of the image", setuid_programs)
    attempt("a setuid program of its own", setuid_of_our_own)
    attempt("mount", lambda: call("mount", b"none", b"/mirage/tmp", b"tmpfs", 0, None))
    attempt("mount proc", lambda: call("mount", b"proc", b"/mirage/tmp", b"proc", 0, None))
    attempt("umount /proc/kcore", lambda: call("umount2", b"/proc/kcore", 2))
    attempt("fsopen", lambda: call("fsopen", b"tmpfs", 0))
    attempt("open_tree", lambda: call("open_tree", -100, b"/", 1))
    attempt("pivot_root", lambda: call("pivot_root", b"/mirage/tmp", b"/mirage/tmp"))
    attempt("chroot", lambda: os.chroot("/mirage/tmp"))
    attempt("unshare user", lambda: call("unshare", 0x10000000))
    attempt("unshare mount", lambda: call("unshare", 0x00020000))
    attempt("setns", lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0))
    attempt("mknod block", lambda: os.mknod("/mirage/out/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
    attempt("mknod char", lambda: os.mknod("/mirage/tmp/mem", 0o600 | stat.S_IFCHR, os.makedev(1, 1)))
    attempt("devices", devices)
    attempt("keyring add", lambda: call("add_key", b"user", b"mirage", b"x", 1, -3))
    attempt("keyring request", lambda: call("request_key", b"user", b"mirage", 0, -3))
    attempt("keyring join", lambda: call("keyctl", 1, 0, 0, 0, 0))
    attempt("bpf", lambda: call("bpf", 0, b"\0" * 128, 128))
    attempt("perf", lambda: call("perf_event_open", b"\0" * 128, 0, -1, -1, 0))
    attempt("kexec", lambda: call("kexec_load", 0, 0, 0, 0))
    attempt("kernel module", lambda: call("init_module", b"", 0, b""))
    attempt("userfaultfd", lambda: call("userfaultfd", 0))
    attempt("fanotify", lambda: call("fanotify_init", 0, 0))
    attempt("quota", lambda: call("quotactl", 0, b"/dev/sda", 0, 0))
    attempt("file handle", handle)
    attempt("reboot", lambda: call("reboot", 0x1234567))
    attempt("swapon", lambda: call("swapon", b"/mirage/tmp/x", 0))
    attempt("kernel log", lambda: call("klogctl", 2, ctypes.create_string_buffer(64), 64))
    attempt("hostname", lambda: socket.sethostname("owned"))
    attempt("clock", lambda: time.clock_settime(0, 0.0))
    attempt("ptrace others", trace)
    attempt("memory of init", write_memory_of_init)
    attempt("kill others", kill_others)
    attempt("others' processes", strangers)
    attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))
    attempt("oom score", _score)
    attempt("limits", limits)
    attempt("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99)))
    attempt("run from /tmp", run_from_tmp)
    attempt("leaked descriptors", leaked)
    attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
    attempt("engine's socket", connect(socket.AF_UNIX, "/var/run/docker.sock"))
    attempt("containerd's socket", connect(socket.AF_UNIX, "/run/containerd/containerd.sock"))
    attempt("abstract sockets", abstract_sockets)
    attempt("interfaces", interfaces)
    attempt("metadata address", connect(socket.AF_INET, ("169.254.169.254", 80)))
    attempt("the internet", connect(socket.AF_INET, ("192.0.2.1", 443)))
    attempt("the internet, IPv6", connect(socket.AF_INET6, ("2001:db8::1", 443)))
    attempt("the host by its bridge", gateway())
    attempt("other containers", connect(socket.AF_INET, ("172.17.0.2", 80)))
    attempt("a name", lambda: socket.getaddrinfo("example.org", 80))
    attempt("the hypervisor", lambda: connect(socket.AF_VSOCK, (2, 1024))())


def _score() -> None:
    with open("/proc/self/oom_score_adj", "w") as sink:
        sink.write("-1000")


if __name__ == "__main__":
    attempts()
    with open("/mirage/out/found.json.tmp", "w") as out:
        json.dump(FOUND, out)
    os.mkdir("/mirage/out/artifacts/0")
    os.rename("/mirage/out/found.json.tmp", "/mirage/out/artifacts/0/found.json")
    ready = {
        "schema": "mirage-ready/1", "n": 0, "kind": "report", "name": "found", "version": None, "format": "json",
        "entry": "found.json", "metadata": {},
    }  # fmt: skip
    with open("/mirage/out/artifacts/0.ready.json.tmp", "w") as out:
        json.dump(ready, out)
    os.rename("/mirage/out/artifacts/0.ready.json.tmp", "/mirage/out/artifacts/0.ready.json")
