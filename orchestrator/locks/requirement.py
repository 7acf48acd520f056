"""One line of a requirements file as PEP 508 has it: extras, markers, URLs, and which one version it allows.

Kept apart from lock.py because of what it takes to load: most locks have only plain lines.
"""

from __future__ import annotations

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from orchestrator.errors import LockError
from orchestrator.locks.pinned import Pinned, shown


def pinned(where: str, body: str, hashes: tuple[str, ...], line: int) -> Pinned | None:
    """What a line pins; None where it allows more than one version. Raises LockError that names ``where``."""
    try:
        requirement = Requirement(body)
    except InvalidRequirement as error:
        # packaging repeats the line under its message, and with it any password in a URL
        reason = str(error).splitlines()[0]
        raise LockError(
            f"{where}: not a requirement: {shown(body)} ({shown(reason)})", hint="write it as name==version"
        ) from None
    if requirement.url is not None:
        raise LockError(
            f"{where}: {requirement.name} comes from a URL or a path, which is not supported in a lock",
            hint=f"pin a released version ({requirement.name}==VERSION); "
            "`pip list --format=freeze` writes versions where `pip freeze` writes paths",
        )
    version = _exact(where, requirement)
    if version is None:
        return None
    return Pinned(
        name=canonicalize_name(requirement.name),
        version=version,
        extras=tuple(sorted({canonicalize_name(extra) for extra in requirement.extras})),
        marker=None if requirement.marker is None else str(requirement.marker),
        hashes=hashes,
        line=line,
    )


def same_version(one: str, other: str) -> bool:
    """Whether two versions are equal by PEP 440."""
    return Version(one) == Version(other)


def _exact(where: str, requirement: Requirement) -> str | None:
    """The one version that a requirement allows, in its normal form (PEP 440), or None."""
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1:
        return None
    only = specifiers[0]
    if only.operator not in ("==", "===") or only.version.endswith(".*"):
        return None
    try:
        return str(Version(only.version))
    except InvalidVersion:
        raise LockError(
            f"{where}: {requirement.name} is pinned to {only.version!r}, which is not a version (PEP 440)",
            hint="pin a released version: name==version",
        ) from None
