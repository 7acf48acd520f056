"""What this machine's apt knows and another program needs: its mirror, proxy, certificates and keys.

Read through apt's own tools, never from its files. Nothing of this may end in an image.
"""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.process import ProgramMissing, run

# What may sign a Debian mirror: Debian itself, and keys that this machine trusts for any mirror (a company's).
KEYRINGS = (Path("/usr/share/keyrings/debian-archive-keyring.gpg"), Path("/etc/apt/trusted.gpg.d"))


def apt_options() -> str:
    """The machine's proxy, certificate, password-file and retry settings of apt, as apt.conf(5) lines."""
    names = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-", "Acquire::ForceIPv")
    try:
        dump = run(["apt-config", "dump", "--no-empty", "--format", '%f "%v";%n'], env={"LC_ALL": "C"})
    except ProgramMissing:
        return ""
    kept = [line for line in dump.stdout.decode("utf-8", "replace").splitlines() if line.startswith(names)]
    if Path("/etc/apt/auth.conf").exists():
        kept.append('Dir::Etc::netrc "/etc/apt/auth.conf";')
    if Path("/etc/apt/auth.conf.d").is_dir():
        kept.append('Dir::Etc::netrcparts "/etc/apt/auth.conf.d";')
    return "".join(f"{line}\n" for line in kept)


def sources(suite: str, components: tuple[str, ...]) -> str:
    """sources.list(5) lines for a suite from this machine's own Debian mirror; empty where it has none."""
    try:
        here = Path("/etc/os-release").read_text()
        # A machine that never ran `apt-get update`, or that threw its lists away, still knows its mirror.
        listed = _targets() or _targets("--no-release-info")
    except (ProgramMissing, OSError):
        return ""
    own = re.search(r"^VERSION_CODENAME=(\S+)$", here, re.M)
    if not re.search(r"^ID=debian$", here, re.M) or own is None:
        return ""
    found: dict[str, None] = {}
    for line in listed.splitlines():
        uri, release, codename, component, origin = line.rsplit("|", 4)
        known = not origin.startswith("$(")
        # Without downloaded lists the origin is not known; a Debian mirror is then told by its path.
        if not (origin == "Debian" if known else "/debian" in uri) or component not in components:
            continue
        name = codename if known else release
        pocket = name.removeprefix(own[1])
        if name.startswith(own[1]) and pocket in ("", "-updates", "-security"):
            found[f"deb {uri} {suite}{pocket} {' '.join(components)}\n"] = None
    return "".join(found) if any(f" {suite} " in line for line in found) else ""


def _targets(*options: str) -> str:
    fields = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)"
    command = ["apt-get", "indextargets", *options, "--format", fields, "Identifier: Packages"]
    return run(command, env={"LC_ALL": "C"}).stdout.decode("utf-8", "replace")
