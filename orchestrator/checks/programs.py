"""The programs that runs rest on: git, Python, the engine and what runs below it, the NVIDIA toolkit where it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from orchestrator.checks.finding import FAIL, OK, WARN, Finding
from orchestrator.checks.holes import holes, version_of
from orchestrator.engine_values import EngineInfo
from orchestrator.errors import EngineError, SourceError
from orchestrator.process import ProgramMissing, run
from orchestrator.sizes import readable_size

_OLDEST_GIT = (2, 26, 0)
# CVE-2025-4517: the releases whose tarfile keeps to its own filter (python.org, security releases of June 2025).
_MENDED_TARFILE = {(3, 9): 23, (3, 10): 18, (3, 11): 13, (3, 12): 11, (3, 13): 4}


def of_git() -> Iterator[Finding]:
    """git: there, new enough, without known holes."""
    try:
        text = run(["git", "--version"]).stdout.decode("utf-8", "replace").strip()
    except ProgramMissing:
        yield Finding("git", FAIL, "git is not installed", "apt-get install git", SourceError.exit_code)
        return
    version = version_of(text)
    if version is None or version < _OLDEST_GIT:
        yield Finding("git", FAIL, f"{text} is too old", "install git 2.26 or newer", SourceError.exit_code)
        return
    yield Finding("git", OK, text)
    yield from _holes("git", "git", text, "update git; clone submodules only of those whom you trust")


def of_python() -> Iterator[Finding]:
    """Whether this Python's tarfile filter can be walked around: Mirage never relies on it, users may."""
    here, micro = sys.version_info[:2], sys.version_info[2]
    text = ".".join(str(part) for part in sys.version_info[:3])
    if micro < _MENDED_TARFILE.get(here, 0):
        hint = "Mirage never extracts archives with it; your own code on this Python should not either"
        yield Finding("python", WARN, f"{text}: its tarfile extraction filter has known holes", hint)
    else:
        yield Finding("python", OK, text)


def of_engine(info: EngineInfo) -> Iterator[Finding]:
    """What the engine is, and what about it stands in the way."""
    kind = "rootless, " if info.rootless else "userns-remap, " if info.userns else ""
    yield Finding(
        "engine",
        OK,
        f"{info.name} {info.version} ({kind}{info.image_store} image store, {info.storage_driver}, "
        f"cgroup v{info.cgroup_version}, {info.cpus} CPUs, {readable_size(info.memory)})",
    )
    if info.userns and (os.geteuid() != 0 or info.userns_root is None):
        yield Finding(
            "engine",
            FAIL,
            "this engine maps users (userns-remap), and only root can give a run's outbox to one of them",
            "run as root, or use an engine without userns-remap, or a rootless one",
            EngineError.exit_code,
        )
    if not info.limits_enforced:
        yield Finding(
            "engine", WARN, "this engine cannot enforce memory and CPU limits", "set up cgroup v2 delegation"
        )
    if info.storage_driver == "vfs":
        yield Finding(
            "engine",
            WARN,
            "its storage driver is vfs: every container and every layer is a whole copy",
            "use overlay2: its data root wants a file system that overlayfs works on (ext4, XFS with ftype=1)",
        )
    update = "update the engine's packages; run only code whose authors you trust"
    yield from _holes("engine", "runc", info.runc, update)
    yield from _holes("engine", "containerd", info.containerd, update)
    yield from _holes("engine", info.name, info.version, update)
    if info.authorization:
        yield from _holes("engine", f"{info.name} with an authorization plugin", info.version, update)


def of_toolkit() -> Iterator[Finding]:
    """The NVIDIA container toolkit, where it is installed on this machine."""
    try:
        text = run(["nvidia-ctk", "--version"]).stdout.decode("utf-8", "replace")
    except ProgramMissing:
        return
    yield from _holes("gpu", "nvidia-container-toolkit", text, "update nvidia-container-toolkit")


def _holes(check: str, program: str, version: str, hint: str) -> Iterator[Finding]:
    for hole in holes(program, version):
        shown = ".".join(map(str, version_of(version) or ()))
        yield Finding(
            check,
            WARN,
            f"{program} {shown} has a known hole, unless your distribution has mended it: {hole.what} ({hole.names})",
            f"{hint}; {hole.source}",
        )
