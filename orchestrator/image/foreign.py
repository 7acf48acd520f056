"""The installer for another processor than this machine's: its own program, from the package index, kept once.

Images for another platform are built and run under emulation (qemu, by the kernel's binfmt_misc), so the program in the
builder must be that platform's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from orchestrator.errors import ImageError
from orchestrator.image import installer, uv_version
from orchestrator.image.emulation import MACHINES, other
from orchestrator.image.oci import Platform
from orchestrator.process import run


def program(platform: Platform, cache: Path) -> bytes:
    """The installer for a platform, at the version of this machine's. Raises ImageError."""
    architecture = other(platform)
    if architecture is None:
        return installer.program()
    version = uv_version.installed()
    kept = cache / "tools" / f"uv-{version}-{architecture}"
    if not kept.exists():
        _fetch(version, architecture, kept)
    return kept.read_bytes()


def _fetch(version: str, architecture: str, kept: Path) -> None:
    import uv

    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        machine = MACHINES.get(architecture, architecture)
        words = [uv.find_uv_bin(), "pip", "install", "-q", "--no-deps", "--only-binary", ":all:"]
        words += ["--python-platform", f"{machine}-unknown-linux-gnu", "--target", folder, f"uv=={version}"]
        done = run(words, timeout=600)
        found = Path(folder) / "bin" / "uv"
        if done.code != 0 or not found.is_file():
            raise ImageError(
                f"uv {version} for {architecture} could not be fetched, which installs the environment there:\n"
                + installer.tail(done.complaint),
                hint="check proxy, CA bundle and index of this machine, or build on such a machine",
            )
        part = Path(folder) / "uv.part"
        shutil.copyfile(found, part)
        part.replace(kept)
