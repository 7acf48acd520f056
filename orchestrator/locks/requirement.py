"""One line of a requirements file as PEP 508 has it: extras, markers, URLs, and which one version it allows.

Kept apart from requirements.py because of what it takes to load: most locks have only plain lines.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from orchestrator.errors import LockError
from orchestrator.locks import vcs
from orchestrator.locks.pinned import File, Pinned, holds_login, shown, without_login

_FRAGMENT_HASH = re.compile(r"(?:^|&)(sha(?:256|384|512))=([0-9a-f]+)")
_BARE_URL = re.compile(r"https?://\S+")
# pip's older form of a repository: its name and its extras behind it
_EGG = re.compile(r"([a-z]+\+\S+?[#&]egg=([A-Za-z0-9._-]+(\[[^\]]*\])?)(?:&\S*)?)( ;.*)?")


def pinned(where: str, body: str, hashes: tuple[str, ...], line: int) -> Pinned | None:
    """What a line pins; None where it allows more than one version. Raises LockError that names ``where``."""
    if _BARE_URL.match(body):
        body = _named(where, body)
    elif (egg := _EGG.fullmatch(body)) is not None:
        body = f"{egg[2]} @ {egg[1]}" + (egg[4] or "")
    try:
        requirement = Requirement(body)
    except InvalidRequirement as error:
        # packaging repeats the line under its message, and with it any password in a URL
        reason = str(error).splitlines()[0]
        raise LockError(
            f"{where}: not a requirement: {shown(body)} ({shown(reason)})", hint="write it as name==version"
        ) from None
    name = canonicalize_name(requirement.name)
    extras = tuple(sorted({canonicalize_name(extra) for extra in requirement.extras}))
    marker = None if requirement.marker is None else str(requirement.marker)
    if requirement.url is not None and "+" in urlsplit(requirement.url).scheme:
        return _at_commit(where, name, requirement.url, extras, marker, hashes, line)
    if requirement.url is not None:
        url, file, version = at_url(where, name, requirement.url, hashes)
        return Pinned(name, version, extras, marker, file.hashes, line, url=url, files=(file,))
    exact = _exact(where, requirement)
    return None if exact is None else Pinned(name, exact, extras, marker, hashes, line)


def _at_commit(
    where: str,
    name: str,
    url: str,
    extras: tuple[str, ...],
    marker: str | None,
    hashes: tuple[str, ...],
    line: int,
) -> Pinned:
    """A package of a repository at a full commit; its extras are separate lines of a lock."""
    if hashes:
        raise LockError(
            f"{where}: {name} comes from a commit, which has no hash of a file", hint="take --hash out of it"
        )
    place = vcs.read(where, name, url)
    return Pinned(name, "", extras, marker, (), line, build=True, vcs=place.spelled())


def at_url(where: str, name: str, url: str, hashes: tuple[str, ...]) -> tuple[str, File, str]:
    """A package's file at a URL: (the URL without fragment and login, the file, its version).

    Raises LockError for places that a lock cannot pin, and where there is no hash.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise LockError(
            f"{where}: {name} comes from a path, which is not supported in a lock",
            hint=f"pin a released version ({name}==VERSION), or the URL of a wheel with its hash; "
            "`pip list --format=freeze` writes versions where `pip freeze` writes paths",
        )
    if holds_login(url):
        raise LockError(
            f"{where}: the URL of {name} holds a login, and the lock is part of the commit",
            hint="take it out, and put it into netrc, which is handed to the build",
        )
    found = {*hashes, *(f"{kind}:{value}" for kind, value in _FRAGMENT_HASH.findall(parts.fragment))}
    if not found:
        raise LockError(
            f"{where}: {name} comes from a URL without a hash, which may give other bytes tomorrow",
            hint="add --hash=sha256:... (`pip hash FILE` prints it), or pin a released version",
        )
    file = unquote(parts.path.rpartition("/")[2])
    named, version = name_and_version(where, file)
    if named != name:
        raise LockError(
            f"{where}: {name} is at a URL whose file {file} is of {named}", hint="which one is it?"
        )
    place = without_login(parts._replace(fragment="").geturl())
    return place, File(file, tuple(sorted(found)), place), version


def name_and_version(where: str, file: str) -> tuple[str, str]:
    """What the name of a wheel or source distribution says of it. Raises LockError."""
    try:
        if file.endswith(".whl"):
            wheel = parse_wheel_filename(file)
            return wheel[0], str(wheel[1])
        name, version = parse_sdist_filename(file)
    except (InvalidWheelFilename, InvalidSdistFilename) as error:
        raise LockError(
            f"{where}: neither a wheel's nor a source distribution's name: {file!r} ({error})",
            hint="pin a released version: name==version",
        ) from None
    return name, str(version)


def same_version(one: str, other: str) -> bool:
    """Whether two versions are equal by PEP 440."""
    return Version(one) == Version(other)


def allows(where: str, body: str) -> tuple[str, str]:
    """A line of a constraints file as (name, which versions it allows)."""
    try:
        requirement = Requirement(body)
    except InvalidRequirement as error:
        raise LockError(
            f"{where}: not a constraint: {shown(body)} ({shown(str(error).splitlines()[0])})",
            hint="write it as name==version",
        ) from None
    return canonicalize_name(requirement.name), str(requirement.specifier)


def within(version: str, versions: str) -> bool:
    """Whether a version is one of those that a specifier allows."""
    return SpecifierSet(versions).contains(version, prereleases=True)


def name_of(body: str) -> str:
    """The name that a loose requirement is about."""
    return canonicalize_name(Requirement(body).name)


def pinned_by(where: str, body: str, pin: Pinned) -> Pinned | None:
    """A loose requirement as the constraint that pins its package makes it; None where it does not allow that."""
    requirement = Requirement(body)
    if requirement.url is not None or not within(pin.version, str(requirement.specifier)):
        return None
    extras = tuple(sorted({canonicalize_name(extra) for extra in requirement.extras}))
    marker = None if requirement.marker is None else str(requirement.marker)
    return replace(pin, extras=extras, marker=marker)


def _named(where: str, body: str) -> str:
    """A line that is a URL alone, with the name that its file gives."""
    url, _, marker = body.partition(" ;")
    name, _ = name_and_version(where, unquote(urlsplit(url.strip()).path.rpartition("/")[2]))
    return f"{name} @ {url.strip()}" + (f" ;{marker}" if marker else "")


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
