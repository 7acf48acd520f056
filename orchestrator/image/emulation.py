"""Whether an image is for another processor than this machine's, which then has to be emulated."""

from __future__ import annotations

import platform as host

from orchestrator.image.oci import Platform

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def other(platform: Platform) -> str | None:
    """The architecture of a platform where it is not this machine's own."""
    own = {value: key for key, value in MACHINES.items()}.get(host.machine(), host.machine())
    return None if platform.architecture == own else platform.architecture
