"""The lock stage: the file that pins the environment, parsed into exact packages with their hashes.

Here: `requirements.txt` as `pip freeze` and `pip-compile --generate-hashes` write it (pip's "Requirements
File Format"). The other lock formats are recognised, so that two locks at once are never guessed between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import LockError, at_line
from orchestrator.locks.pinned import Pinned, shown

KNOWN = ("requirements.txt", "poetry.lock", "Pipfile.lock", "uv.lock", "pylock.toml")
_HASH = re.compile(r"--hash[= ]\s*(\S+)")
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
# What `pip freeze` writes of a release, in the normal form of PEP 440; anything else is requirement.py's, since the
# library that knows all of PEP 508 takes longer to load than everything else here to run.
_PLAIN = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?) ?== ?((?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*)"
)
_PYLOCK = re.compile(r"pylock\.[^.]+\.toml")  # PEP 751, "File Name"
_COMMENT = re.compile(r"(^|\s)#.*$")


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


def parse(path: str, content: bytes, unpinned: str = "refuse") -> Lock:
    """Parse a lock file; raises LockError with file and line for what is not pinned or not understood.

    ``unpinned`` is `environment.unpinned` of the settings: what to do with lines that pin nothing.
    """
    name = path.rpartition("/")[2]
    if name in KNOWN[1:] or _PYLOCK.fullmatch(name):
        raise LockError(
            f"{path} cannot be read by this version of Mirage",
            hint="export it to a pinned requirements.txt "
            "(`uv export`, `poetry export`, `pipenv requirements`) and name that under `environment: {lock: ...}`",
        )
    return _requirements(path, content, unpinned)


def _requirements(path: str, content: bytes, unpinned: str) -> Lock:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LockError(f"{path} is not UTF-8: {error}", hint="save it as UTF-8") from error
    packages: list[Pinned] = []
    loose: list[str] = []
    for number, line in _logical_lines(text):
        pinned = _pinned(path, number, line)
        if pinned is None:
            loose.append(f"{at_line(path, number)}: {line}")
        else:
            packages.append(pinned)
    if loose:
        also = " (`unpinned: resolve` is not supported by this version of Mirage)"
        raise LockError(
            f"not pinned to one version each{also if unpinned == 'resolve' else ''}:\n"
            + "\n".join(f"  {each}" for each in loose),
            hint=f"pin everything with `uv pip compile --generate-hashes {path} -o {path}`, "
            "or write down what is installed with `pip freeze`; then commit it",
        )
    return Lock("requirements", path, of_bytes(content), _merged(path, packages))


def _pinned(path: str, number: int, line: str) -> Pinned | None:
    """What a logical line pins; None where it allows more than one version. Raises LockError."""
    where = at_line(path, number)
    if line.startswith("-"):
        word = line.split()[0].partition("=")[0]
        raise LockError(f"{where}: not supported in a lock: {shown(line)}", hint=_instead_of(word))
    hashes = tuple(sorted(set(_HASH.findall(line))))
    body = _HASH.sub("", line).strip()
    for value in hashes:
        if not _HASH_VALUE.fullmatch(value):
            raise LockError(
                f"{where}: not a hash: {value!r} (expected sha256: and 64 lower-case hex digits)",
                hint=f"write the hashes with `uv pip compile --generate-hashes {path} -o {path}`",
            )
    if re.search(r"(^|\s)--", body):
        raise LockError(
            f"{where}: an option that is not supported in a lock: {shown(body)}",
            hint="only --hash may follow a package",
        )
    plain = _PLAIN.fullmatch(body)
    if plain is not None:
        return Pinned(_normal_name(plain[1]), plain[2], (), None, hashes, number)
    from orchestrator.locks import requirement

    return requirement.pinned(where, body, hashes, number)


def _normal_name(name: str) -> str:
    """The normal form of a package's name (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _instead_of(word: str) -> str:
    """What to do about an option line."""
    if word in ("-e", "--editable"):
        return (
            "the project's own code is part of the image without being installed: leave it out "
            "(`uv export --no-emit-project`, `pip freeze --exclude-editable`); anything else needs a released version"
        )
    if word.startswith(("-r", "-c", "--requirement", "--constraint")):
        return "write all packages out, pinned, in this one file"
    if word == "--hash":
        return "a comment ended the package's line: put the hashes right below the package, before comments"
    if word.startswith(("-i", "-f", "--index", "--extra-index", "--find-links", "--no-index", "--trusted")):
        return "index settings belong to pip's or uv's own configuration, which is handed to the build"
    return "a lock lists packages as name==version, with --hash at most"


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines joined at their backslashes, without comments and blank ones, with their first line's number.

    A backslash inside a comment joins nothing: pip would drop the next line with the comment, unseen.
    """
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not pending:
            start = number
        bare = _COMMENT.sub("", line)
        if bare == line and line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1] + " "
            continue
        whole = (pending + bare).strip()
        pending = ""
        if whole:
            yield start, whole
    if pending.strip():
        yield start, pending.strip()


def _merged(path: str, packages: Sequence[Pinned]) -> tuple[Pinned, ...]:
    """The packages in order, lines that pin the same version under the same marker made one."""
    found: dict[tuple[str, str | None], Pinned] = {}
    for package in packages:
        earlier = found.setdefault((package.name, package.marker), package)
        if earlier.version != package.version and not _same(earlier.version, package.version):
            raise LockError(
                f"{at_line(path, package.line)}: {package.name} is pinned twice: "
                f"{earlier.version} (line {earlier.line}) and {package.version}",
                hint="keep one of the two lines",
            )
        found[package.name, package.marker] = replace(
            earlier,
            extras=tuple(sorted({*earlier.extras, *package.extras})),
            hashes=tuple(sorted({*earlier.hashes, *package.hashes})),
        )
    return tuple(sorted(found.values(), key=lambda p: (p.name, p.version, p.marker or "")))


def _same(one: str, other: str) -> bool:
    """Whether two spellings mean one version: `1.0` and `1.0.0` do (PEP 440)."""
    from orchestrator.locks import requirement

    return requirement.same_version(one, other)
