#!/usr/bin/env python3
"""Debian packages that this machine lacks: says which, and installs them where it has the rights.

Usage: scripts/packages.py NAME...   where NAME is one of the tools in ``TOOLS``.
Standard library only, Python 3.9 or later: it runs before there is a virtual environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
POLICY = Path("/usr/sbin/policy-rc.d")
TOOLS = {
    "arch-test": "making a base for another processor",
    "btrfs-progs": "the tests of stores on other file systems",
    "ceph-mon": "the tests of buckets on a second server",
    "ceph-osd": "the tests of buckets on a second server",
    "chromium": "the tests of reports in a browser",
    "crun": "the tests of other runtimes",
    "docker-compose": "the test of a team's services",
    "docker-registry": "the tests of bases from a registry",
    "e2fsprogs": "the tests of power cuts",
    "graphviz": "the tests of drawn lineages",
    "fuse3": "the tests of stores on other file systems",
    "git": "reading a project's source",
    "iproute2": "the tests on other engines",
    "libfaketime": "the tests of builds at another time",
    "mmdebstrap": "making a base image",
    "openssh-client": "the tests of keys",
    "openssl": "the tests of signatures",
    "python3-venv": "making .venv",
    "qemu-system-x86": "the tests of stores on a NAS",
    "qemu-user-static": "running what is for another processor",
    "radosgw": "the tests of buckets on a second server",
    "rootlesskit": "the tests on a rootless engine",
    "skopeo": "the tests of exported images",
    "slirp4netns": "the tests on a rootless engine",
    "strace": "the tests of crashes and of failing disks",
    "uidmap": "the tests on a rootless engine",
    "xfsprogs": "the tests of stores on other file systems",
}


class Missing(Exception):
    """Something is missing and cannot be had from here: what, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def say(text: str) -> None:
    """Tell the person at the terminal what goes on, on stderr."""
    print(text, file=sys.stderr, flush=True)


def program(name: str) -> str | None:
    """Where a program is, also in the sbin folders that a user's PATH leaves out."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)


def missing(tool: str) -> list[str]:
    """The Debian packages that are needed for a tool and not there."""
    if tool == "git":
        return [] if program("git") else ["git", "ca-certificates"]
    if tool in (
        "arch-test",
        "btrfs-progs",
        "ceph-mon",
        "ceph-osd",
        "chromium",
        "crun",
        "docker-compose",
        "docker-registry",
        "e2fsprogs",
        "fuse3",
        "graphviz",
        "iproute2",
        "openssh-client",
        "openssl",
        "qemu-system-x86",
        "qemu-user-static",
        "radosgw",
        "rootlesskit",
        "skopeo",
        "slirp4netns",
        "strace",
        "uidmap",
        "xfsprogs",
    ):
        program_of = {
            "btrfs-progs": "mkfs.btrfs",
            "e2fsprogs": "mkfs.ext4",
            "fuse3": "fusermount3",
            "graphviz": "dot",
            "iproute2": "ip",
            "openssh-client": "ssh-keygen",
            "qemu-system-x86": "qemu-system-x86_64",
            "qemu-user-static": "qemu-aarch64-static",
            "uidmap": "newuidmap",
            "xfsprogs": "mkfs.xfs",
        }
        return [] if program(program_of.get(tool, tool)) else [tool]
    if tool == "libfaketime":
        return [] if any(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")) else [tool]
    if tool == "python3-venv":
        return [] if has_ensurepip("/usr/bin/python3") else ["python3-venv"]
    needs = [] if program("mmdebstrap") else ["mmdebstrap"]
    if not KEYRING.exists():
        needs.append("debian-archive-keyring")
    if os.geteuid() != 0 and not program("newuidmap"):
        needs.append("uidmap")  # what mmdebstrap's unshare mode maps users with
    return needs


def has_ensurepip(python: str) -> bool:
    """Whether this Python can make a virtual environment with pip in it (Debian splits that off)."""
    try:
        return subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0
    except OSError:
        return False


def systemd_runs() -> bool:
    """Whether systemd is this machine's init, by sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def root_prefix() -> list[str] | None:
    """What goes before a command that needs root: nothing, sudo, or None where neither is possible."""
    if os.geteuid() == 0:
        return []
    sudo = program("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True).returncode == 0:
        return [sudo, "-n"]
    return None


def install(packages: Sequence[str], why: str) -> None:
    """Install Debian packages with apt-get, without recommendations and without questions.

    Sources that fail to update are passed over as long as the packages can be had. Raises Missing.
    """
    names = " ".join(packages)
    command = f"apt-get update && apt-get install -y --no-install-recommends {names}"
    if program("apt-get") is None:
        raise Missing(
            f"{why} needs what Debian and Ubuntu call {names}, and this machine has no apt-get",
            "install it with this machine's own package manager, then try again",
        )
    prefix = root_prefix()
    if prefix is None:
        raise Missing(
            f"{why} needs {names}, and you are neither root nor have sudo without a password",
            f"ask for: sudo sh -c '{command}'",
        )
    say(f"installing {names} (for {why})")
    env = ["env", "DEBIAN_FRONTEND=noninteractive", f"PATH={SYSTEM_PATH}"]
    apt = [*prefix, *env, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    update = subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, capture_output=True)
    with services_held_back(prefix):
        done = subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    if done.returncode != 0:
        for step in (update, done):
            if step.returncode != 0:
                say("\n".join((step.stdout + step.stderr).decode("utf-8", "replace").splitlines()[-25:]))
        raise Missing(f"apt-get could not install {names}", f"mend what it says above, or run: {command}")


@contextmanager
def services_held_back(prefix: Sequence[str]) -> Iterator[None]:
    """Keep a package from starting its service where no init could run it (Debian policy 9.3.3)."""
    if systemd_runs() or POLICY.exists():
        yield
        return
    text = "#!/bin/sh\n# made by scripts/packages.py for the time of one installation\nexit 101\n"
    subprocess.run([*prefix, "tee", str(POLICY)], input=text.encode(), stdout=subprocess.DEVNULL, check=True)
    subprocess.run([*prefix, "chmod", "0755", str(POLICY)], check=True)
    try:
        yield
    finally:
        subprocess.run([*prefix, "rm", "-f", str(POLICY)], check=True)


def ensure(tools: Sequence[str]) -> None:
    """Install what the tools need and this machine lacks; does nothing where all is there. Raises Missing."""
    lacking = {tool: missing(tool) for tool in tools}
    needs = sorted({package for names in lacking.values() for package in names})
    if needs:
        why = dict.fromkeys(TOOLS[tool] for tool, names in lacking.items() if names)
        install(needs, " and ".join(why))
        still = sorted({package for tool in tools for package in missing(tool)})
        if still:
            raise Missing(
                f"{' '.join(still)}: installed, and still not usable", "see what dpkg -L says of it"
            )


def main(argv: Sequence[str]) -> int:
    """Ensure the tools that the command line names; exit code 2 for a wrong name, 1 where it cannot."""
    unknown = [name for name in argv if name not in TOOLS]
    if unknown or not argv:
        say(f"usage: {sys.argv[0]} NAME...   (known: {', '.join(TOOLS)})")
        return 2
    try:
        ensure(argv)
    except Missing as error:
        say(f"error: {error}\n  -> {error.hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
