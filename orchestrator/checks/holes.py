"""Versions with known holes: of each program the releases that mended one, and who says so.

A short list of what matters to those who run the code of others in containers; no scanner. Distributions mend holes
without another version number, which a version cannot tell: hence the words of the finding.

Each row's versions are those of its ``source``, and were compared in November 2026 with the CVE program's records
(github.com/CVEProject/cvelistV5, cves/YEAR/NUMBER/CVE-....json), where these name versions at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Version: TypeAlias = "tuple[int, int, int]"


@dataclass(frozen=True)
class Hole:
    """A hole: ``mended`` has the first good release of each line that got one; newer lines are good, older are not.

    ``since`` is the first release that has it.
    """

    program: str
    names: str
    what: str
    mended: tuple[Version, ...]
    source: str
    since: Version = (0, 0, 0)


HOLES = (
    Hole(
        "runc",
        "CVE-2024-21626",
        "a file descriptor that leads out of the container (Leaky Vessels)",
        ((1, 1, 12),),
        "https://github.com/opencontainers/runc/security/advisories/GHSA-xr7r-f8xq-vfvv",
    ),
    Hole(
        "runc",
        "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
        "masked paths and /dev/console that can be redirected: ways out of the container",
        ((1, 2, 8), (1, 3, 3), (1, 4, 0)),
        "https://github.com/opencontainers/runc/security/advisories/GHSA-9493-h29p-rfm2",
    ),
    Hole(
        "runc",
        "CVE-2026-41579",
        "an image whose /dev is a link writes a little to the host",
        ((1, 3, 6), (1, 4, 3), (1, 5, 0)),
        "https://github.com/opencontainers/runc/releases/tag/v1.4.3",
    ),
    Hole(
        "containerd",
        "CVE-2024-25621, CVE-2025-64329",
        "its folders can be entered by every user of the host, and attaching by its CRI leaks memory",
        ((1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)),
        "https://github.com/containerd/containerd/security/advisories/GHSA-pwhc-rpq9-4c8w",
    ),
    Hole(
        "docker",
        "CVE-2024-23651, CVE-2024-23652, CVE-2024-23653",
        "a Dockerfile that gets at the host while BuildKit builds it",
        ((25, 0, 2),),
        "https://github.com/moby/moby/releases/tag/v24.0.9",
    ),
    Hole(
        "docker",
        "CVE-2026-41567, CVE-2026-41568, CVE-2026-42306",
        "a container that gets at the host while files are copied to or from it",
        ((29, 5, 1),),
        "https://github.com/moby/moby/security/advisories/GHSA-rg2x-37c3-w2rh",
    ),
    Hole(
        "docker with an authorization plugin",
        "CVE-2024-41110",
        "requests that its authorization plugin does not see",
        ((23, 0, 15), (25, 0, 6), (26, 1, 5), (27, 1, 1)),
        "https://github.com/moby/moby/security/advisories/GHSA-v23v-6jw2-98fq",
        since=(19, 3, 0),
    ),
    Hole(
        "docker with an authorization plugin",
        "CVE-2026-34040",
        "requests of which its authorization plugin does not see the body, since that is large",
        ((29, 3, 1),),
        "https://github.com/moby/moby/security/advisories/GHSA-x744-4wpc-v9h2",
    ),
    Hole(
        "podman",
        "CVE-2024-1753",
        "a Dockerfile that mounts the host's root while it is built",
        ((4, 9, 4), (5, 0, 1)),
        "https://github.com/containers/podman/security/advisories/GHSA-874v-pj72-92f3",
        since=(4, 0, 0),
    ),
    Hole(
        "podman",
        "CVE-2024-9675",
        "a Dockerfile that gets at the host's files while it is built",
        ((5, 2, 5),),
        "https://github.com/containers/podman/releases/tag/v5.2.5",
    ),
    Hole(
        "podman",
        "CVE-2025-11395",
        "an image that overwrites the host's files while it is loaded",
        ((6, 1, 2),),
        "https://github.com/containers/podman/releases/tag/v6.1.2",
    ),
    Hole(
        "git",
        "CVE-2024-32002",
        "code that runs when a repository with submodules is cloned",
        ((2, 39, 4), (2, 40, 2), (2, 41, 1), (2, 42, 2), (2, 43, 4), (2, 44, 1), (2, 45, 1)),
        "https://github.com/git/git/security/advisories/GHSA-8h77-4q3w-gfgv",
    ),
    Hole(
        "git",
        "CVE-2025-48384",
        "code that runs when a repository with submodules is cloned",
        ((2, 43, 7), (2, 44, 4), (2, 45, 4), (2, 46, 4), (2, 47, 3), (2, 48, 2), (2, 49, 1), (2, 50, 1)),
        "https://github.com/git/git/security/advisories/GHSA-vwqx-4fm8-6qc9",
    ),
    Hole(
        "nvidia-container-toolkit",
        "CVE-2024-0132",
        "an image that gets at the host's files when it is started with a GPU",
        ((1, 16, 2),),
        "https://nvidia.custhelp.com/app/answers/detail/a_id/5582",
    ),
    Hole(
        "nvidia-container-toolkit",
        "CVE-2025-23359",
        "the same by another way",
        ((1, 17, 4),),
        "https://nvidia.custhelp.com/app/answers/detail/a_id/5616",
    ),
    Hole(
        "nvidia-container-toolkit",
        "CVE-2025-23266",
        "an image that loads a library as root on the host when it is started with a GPU",
        ((1, 17, 8),),
        "https://nvidia.custhelp.com/app/answers/detail/a_id/5659",
    ),
)


def version_of(text: str) -> Version | None:
    """The first version in what a program says of itself; None where there is none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def holes(program: str, text: str) -> Iterator[Hole]:
    """The holes that a program of this version has, as far as its version tells."""
    version = version_of(text)
    if version is None:
        return
    for hole in HOLES:
        if hole.program == program and version >= hole.since and not _is_mended(version, hole.mended):
            yield hole


def _is_mended(version: Version, mended: tuple[Version, ...]) -> bool:
    """In the same line (all but the last number), at least the release that mended it; else in a later line."""
    same = [each for each in mended if each[:2] == version[:2]]
    return version >= same[0] if same else version > mended[-1]
