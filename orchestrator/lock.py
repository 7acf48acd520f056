"""The lock stage: the file that pins the environment, parsed into exact packages with their hashes.

Here: `requirements.txt` as `pip freeze` and `pip-compile --generate-hashes` write it (pip's "Requirements
File Format"). The other lock formats are recognised, so that two locks at once are never guessed between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import LockError, at_line

KNOWN = ("requirements.txt", "poetry.lock", "Pipfile.lock", "uv.lock", "pylock.toml")
_HASH = re.compile(r"--hash[= ]\s*(\S+)")
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_PIN_COMMAND = "pin everything with `uv pip compile requirements.in -o requirements.txt` or `pip freeze`"


@dataclass(frozen=True)
class Pinned:
    """One package at one version; ``hashes`` are those of the files that may be installed for it."""

    name: str
    version: str
    extras: tuple[str, ...]
    marker: str | None
    hashes: tuple[str, ...]
    line: int

    def requirement(self) -> str:
        """The line that an installer takes, in one normal form."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}{extras}=={self.version}{marker}" + "".join(f" --hash={h}" for h in self.hashes)

    def to_json(self) -> Json:
        """What enters the environment's key: everything but the line number."""
        return {
            "name": self.name,
            "version": self.version,
            "extras": list(self.extras),
            "marker": self.marker,
            "hashes": list(self.hashes),
        }


@dataclass(frozen=True)
class Lock:
    """A parsed lock file; ``digest`` is that of the file's own bytes."""

    kind: str
    path: str
    digest: Digest
    packages: tuple[Pinned, ...]

    @property
    def hashed(self) -> bool:
        """Whether every package names the files that may be installed."""
        return all(package.hashes for package in self.packages)

    def requirements(self) -> bytes:
        """The whole lock in the installer's form, sorted."""
        return "".join(f"{line}\n" for line in sorted(p.requirement() for p in self.packages)).encode()


def choose(present: Sequence[str], wanted: str) -> str:
    """The path of the one lock file of a project.

    ``wanted`` is `auto` or a path. Raises LockError where there is none, or more than one to choose from.
    """
    if wanted != "auto":
        if wanted not in present:
            raise LockError(
                f"the lock file {wanted} is not in the commit",
                hint="commit it, or change `environment: {lock: ...}` in .mirage/project.yaml",
            )
        return wanted
    found = [name for name in KNOWN if name in present]
    if not found:
        raise LockError(
            f"no lock file in the project (looked for {', '.join(KNOWN)})",
            hint="commit a requirements.txt as `pip freeze` writes it; an empty one means: no packages",
        )
    if len(found) > 1:
        raise LockError(
            f"more than one lock file: {', '.join(found)}",
            hint="say which one with `environment: {lock: FILE}` in .mirage/project.yaml",
        )
    return found[0]


def parse(path: str, content: bytes) -> Lock:
    """Parse a lock file; raises LockError with file and line for what is not pinned or not understood."""
    name = path.rpartition("/")[2]
    if name in KNOWN[1:]:
        raise LockError(
            f"{path} cannot be read by this version of Mirage",
            hint="export it to a pinned requirements.txt "
            "(`uv export`, `poetry export`, `pipenv requirements`) and name that under `environment: {lock: ...}`",
        )
    return _requirements(path, content)


def _requirements(path: str, content: bytes) -> Lock:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LockError(f"{path} is not UTF-8: {error}", hint="save it as UTF-8") from error
    packages: list[Pinned] = []
    unpinned: list[str] = []
    for number, line in _logical_lines(text):
        where = at_line(path, number)
        if line.startswith("-"):
            raise LockError(
                f"{where}: {line.split()[0]} is not supported in a lock: {line!r}",
                hint="write the packages out, pinned, in this one file; "
                "index settings belong to pip's or uv's own configuration, which is handed to the build",
            )
        hashes = tuple(sorted(set(_HASH.findall(line))))
        body = _HASH.sub("", line).strip()
        if "--" in body:
            raise LockError(f"{where}: an option that is not supported in a lock: {body!r}")
        for value in hashes:
            if not _HASH_VALUE.fullmatch(value):
                raise LockError(f"{where}: not a hash: {value!r} (expected sha256: and 64 hex digits)")
        try:
            requirement = Requirement(body)
        except InvalidRequirement as error:
            raise LockError(f"{where}: not a requirement: {body!r} ({error})") from error
        if requirement.url is not None:
            raise LockError(
                f"{where}: {requirement.name} comes from a URL or a path, which is not supported in a lock",
                hint="pin a released version: name==version",
            )
        version = _exact(requirement)
        if version is None:
            unpinned.append(f"{where}: {body}")
            continue
        packages.append(
            Pinned(
                name=canonicalize_name(requirement.name),
                version=version,
                extras=tuple(sorted(requirement.extras)),
                marker=_marker(requirement.marker),
                hashes=hashes,
                line=number,
            )
        )
    if unpinned:
        raise LockError(
            "not pinned to one version each:\n" + "\n".join(f"  {u}" for u in unpinned), hint=_PIN_COMMAND
        )
    _check_twice(path, packages)
    packages.sort(key=lambda p: (p.name, p.version, p.marker or ""))
    return Lock("requirements", path, of_bytes(content), tuple(packages))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines joined at their backslashes, without comments and blank ones, with their first line's number."""
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not pending:
            start = number
        if line.rstrip().endswith("\\") and not line.lstrip().startswith("#"):
            pending += line.rstrip()[:-1] + " "
            continue
        whole = re.sub(r"(^|\s)#.*$", "", pending + line).strip()
        pending = ""
        if whole:
            yield start, whole
    whole = re.sub(r"(^|\s)#.*$", "", pending).strip()
    if whole:
        yield start, whole


def _exact(requirement: Requirement) -> str | None:
    """The one version that a requirement allows, or None."""
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1:
        return None
    only = specifiers[0]
    if only.operator not in ("==", "===") or only.version.endswith(".*"):
        return None
    return only.version


def _marker(marker: Marker | None) -> str | None:
    return None if marker is None else str(marker)


def _check_twice(path: str, packages: Sequence[Pinned]) -> None:
    seen: dict[tuple[str, str | None], Pinned] = {}
    for package in packages:
        earlier = seen.setdefault((package.name, package.marker), package)
        if earlier is not package and earlier.version != package.version:
            raise LockError(
                f"{at_line(path, package.line)}: {package.name} is pinned twice: "
                f"{earlier.version} (line {earlier.line}) and {package.version}"
            )
