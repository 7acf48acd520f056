"""`requirements.txt` as pip, pip-tools and uv write it (pip docs, "Requirements File Format"), files that it names too.

What one line means beyond name==version is requirement.py's part.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from orchestrator.digest import of_bytes
from orchestrator.errors import LockError, at_line
from orchestrator.locks import local
from orchestrator.locks.pinned import Lock, Pinned, index_of, normal_name, shown
from orchestrator.locks.source import LockSource, location

_HASH = re.compile(r"--hash[= ]\s*(\S+)")
_HASH_VALUE = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
# What `pip freeze` writes of a release, in the normal form of PEP 440; anything else is requirement.py's, since the
# library that knows all of PEP 508 takes longer to load than everything else here to run.
_PLAIN = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?) ?== ?((?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*)"
)
_COMMENT = re.compile(r"(^|\s)#.*$")
_OPTION = re.compile(r"(-[a-zA-Z]|--[a-z-]+)(?:\s*=\s*|\s*)(.*)")
_LONG = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
    "-i": "--index-url",
    "-f": "--find-links",
}
_WITHOUT_EFFECT = (
    "--only-binary",
    "--prefer-binary",
    "--pre",
)  # wheels come first anyway, versions are pinned
_THE_PROJECT = re.compile(r"\.(/*)(\[[^\]]*\])?")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9._-]+)")
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2")
_DEEPEST = 20


@dataclass
class _Reading:
    """What was found so far, in all files."""

    source: LockSource
    packages: list[Pinned] = field(default_factory=list)
    loose: list[tuple[str, str]] = field(default_factory=list)
    constraints: list[tuple[str, str, str]] = field(default_factory=list)
    constrained: list[Pinned] = field(default_factory=list)
    index: str | None = None
    more: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes_required: bool = False
    seen: list[str] = field(default_factory=list)


def read(source: LockSource) -> Lock:
    """Read a requirements file and those it names. Raises LockError for what pins nothing or is not understood."""
    found = _Reading(source)
    _file(found, source.path, source.content, constraint=False)
    loose = _settle_constraints(found)
    if loose and source.unpinned != "resolve":
        raise LockError(
            "not pinned to one version each:\n" + "\n".join(f"  {where}: {line}" for where, line in loose),
            hint=f"pin everything with `uv pip compile --generate-hashes {source.path} -o {source.path}`, "
            "or write down what is installed with `pip freeze`; then commit it. Or have it resolved once: "
            "`environment: {unpinned: resolve}`",
        )
    if loose and (commits := [package.name for package in found.packages if package.vcs]):
        raise LockError(
            f"{source.path}: {', '.join(commits)} is built from source, and other lines are to be resolved",
            hint="pin those lines: what it needs is not known before it is built",
        )
    bare = [package for package in found.packages if not package.hashes]
    if found.hashes_required and bare:
        raise LockError(
            f"{source.path} says --require-hashes, and {bare[0].name}=={bare[0].version} has none",
            hint=f"write the hashes with `uv pip compile --generate-hashes {source.path} -o {source.path}`",
        )
    return Lock(
        "requirements",
        source.path,
        of_bytes(source.content),
        _merged(source.path, found.packages),
        index=index_of(found.index) if found.index else None,
        more_indexes=tuple(index for url in dict.fromkeys(found.more) if (index := index_of(url))),
        links=tuple(dict.fromkeys(found.links)),
        notes=tuple(found.notes),
        loose=tuple(sorted({line for _, line in loose})),
        constraints=tuple(sorted({f"{name}{versions}" for _, name, versions in found.constraints}))
        if loose
        else (),
    )


def _file(found: _Reading, path: str, content: bytes, *, constraint: bool) -> None:
    if path in found.seen and not constraint:
        return
    found.seen.append(path)
    if len(found.seen) > _DEEPEST:
        raise LockError(f"{path}: more than {_DEEPEST} files include each other", hint="write one lock")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LockError(f"{path} is not UTF-8: {error}", hint="save it as UTF-8") from error
    for number, line in _logical_lines(text):
        where = at_line(path, number)
        if line.startswith("-"):
            _option(found, path, where, line, constraint)
        elif _THE_PROJECT.fullmatch(line) and found.source.own == ".":
            found.notes.append(f"{where}: the project itself is left out: its code is in the image")
        elif constraint:
            _constraint(found, where, number, line)
        elif line[0] in "." or ("/" in line.partition(";")[0] and ":" not in line.partition(";")[0]):
            found.packages.append(_folder(found.source, where, number, line))
        else:
            pinned = _pinned(path, where, number, line)
            if pinned is None:
                found.loose.append((where, line))
            else:
                found.packages.append(pinned)


def _option(found: _Reading, path: str, where: str, line: str, constraint: bool) -> None:
    """A line that is an option of pip's. Raises LockError for one that a lock cannot have."""
    match = _OPTION.fullmatch(line)
    word, value = (match[1], match[2].strip("'\" ")) if match else (line, "")
    word = _LONG.get(word, word)
    if word in ("--requirement", "--constraint") and value:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), value))
        content = found.source.read(target)
        if content is None:
            raise LockError(
                f"{where}: {target} is not in the commit",
                hint="commit it: what a lock names must be part of the commit, too",
            )
        _file(found, target, content, constraint=constraint or word == "--constraint")
    elif word == "--editable" and _means_project(found.source, value):
        found.notes.append(f"{where}: the project itself is left out: its code is in the image")
    elif word == "--editable" and _EGG.search(value) and not constraint:
        # the code of a commit does not change: editable means nothing there
        pinned = _pinned(path, where, int(where.rpartition(":")[2]), value)
        assert pinned is not None
        found.packages.append(pinned)
    elif word == "--editable" and local.path_in(value) is not None and not constraint:
        found.packages.append(_folder(found.source, where, int(where.rpartition(":")[2]), value))
    elif word == "--index-url":
        found.index = location(where, value)
    elif word == "--extra-index-url":
        found.more.append(location(where, value))
    elif word == "--find-links" and value.startswith(("http://", "https://")):
        found.links.append(location(where, value))
    elif word == "--require-hashes":
        found.hashes_required = True
    elif word not in _WITHOUT_EFFECT:
        raise LockError(f"{where}: not supported in a lock: {shown(line)}", hint=_instead_of(word))


def _folder(source: LockSource, where: str, number: int, line: str) -> Pinned:
    """A package in a folder of the commit: its code does not change, so editable or not makes no difference."""
    parts = local.path_in(line)
    if parts is None:
        raise LockError(
            f"{where}: not a folder of the project: {shown(line)}",
            hint="write it as ./folder, or name==version",
        )
    path, extras, marker = parts
    if path.endswith(_ARCHIVES):
        raise LockError(
            f"{where}: {path} is a file of a package, which is not taken from a commit",
            hint="publish it on an index and lock that, or name the folder of its source as ./folder",
        )
    name = local.name_of(source, where, path)
    form = local.spelled(source, where, name, path)
    return Pinned(name, "", extras, marker, (), number, build=True, vcs=form)


def _means_project(source: LockSource, value: str) -> bool:
    own = _THE_PROJECT.fullmatch(value) is not None and source.own == "."
    return own or _is_project(source, value)


def _is_project(source: LockSource, value: str) -> bool:
    """Whether `pip freeze` meant the project itself: it writes its origin, with its name behind."""
    egg = _EGG.search(value)
    content = source.read("pyproject.toml") if egg else None
    if egg is None or content is None:
        return False
    named = re.search(rb"(?m)^name\s*=\s*[\"']([^\"']+)[\"']", content)
    return named is not None and normal_name(named[1].decode("utf-8", "replace")) == normal_name(egg[1])


def _constraint(found: _Reading, where: str, number: int, line: str) -> None:
    from orchestrator.locks import requirement

    hashes = _hashes(where, line)
    body = _HASH.sub("", line).strip()
    name, versions = requirement.allows(where, body)
    found.constraints.append((where, name, versions))
    pinned = requirement.pinned(where, body, hashes, number)
    if pinned is not None:
        found.constrained.append(pinned)


def _settle_constraints(found: _Reading) -> list[tuple[str, str]]:
    """Hold the pins against the constraints; what only a constraint pins is pinned by it. Gives what stays loose."""
    if not found.constraints:
        return found.loose
    from orchestrator.locks import requirement

    for where, name, versions in found.constraints:
        for package in found.packages:
            if package.name == name and not package.vcs and not requirement.within(package.version, versions):
                raise LockError(
                    f"{where}: {name}{versions} does not allow {package.version}, which is pinned",
                    hint="change one of the two",
                )
    loose = []
    for where, line in found.loose:
        name = requirement.name_of(line)
        pin = next((each for each in found.constrained if each.name == name and not each.marker), None)
        widened = None if pin is None else requirement.pinned_by(where, line, pin)
        if widened is None:
            loose.append((where, line))
        else:
            found.packages.append(widened)
    return loose


def _hashes(where: str, line: str) -> tuple[str, ...]:
    hashes = tuple(sorted(set(_HASH.findall(line))))
    for value in hashes:
        if not _HASH_VALUE.fullmatch(value):
            path = where.rpartition(":")[0]
            raise LockError(
                f"{where}: not a hash: {value!r} (expected sha256: and 64 lower-case hex digits)",
                hint=f"write the hashes with `uv pip compile --generate-hashes {path} -o {path}`",
            )
    return hashes


def _pinned(path: str, where: str, number: int, line: str) -> Pinned | None:
    """What a logical line pins; None where it allows more than one version. Raises LockError."""
    hashes = _hashes(where, line)
    body = _HASH.sub("", line).strip()
    if re.search(r"(^|\s)--", body):
        raise LockError(
            f"{where}: an option that is not supported in a lock: {shown(body)}",
            hint="only --hash may follow a package",
        )
    plain = _PLAIN.fullmatch(body)
    if plain is not None:
        return Pinned(normal_name(plain[1]), plain[2], (), None, hashes, number)
    from orchestrator.locks import requirement

    return requirement.pinned(where, body, hashes, number)


def _instead_of(word: str) -> str:
    """What to do about an option line."""
    if word == "--editable":
        return (
            "the project's own code is part of the image anyway (`pip freeze --exclude-editable` leaves it out); "
            "another folder of its repository is written as -e ./folder or -e ../folder; anything else needs a released "
            "version"
        )
    if word == "--hash":
        return "a comment ended the package's line: put the hashes right below the package, before comments"
    if word in ("--find-links", "--no-index", "--trusted-host"):
        return "index settings of one machine belong to pip's or uv's own configuration, which is handed to the build"
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


def _merged(path: str, packages: list[Pinned]) -> tuple[Pinned, ...]:
    """The packages in order, lines that pin the same version under the same marker made one."""
    found: dict[tuple[str, str | None], Pinned] = {}
    for package in packages:
        earlier = found.setdefault((package.name, package.marker), package)
        if (
            earlier.vcs != package.vcs
            or earlier.url != package.url
            or (earlier.version != package.version and not _same(earlier.version, package.version))
        ):
            raise LockError(
                f"{at_line(path, package.line)}: {package.name} is pinned twice: "
                f"{earlier.version or earlier.vcs} (line {earlier.line}) and {package.version or package.vcs}",
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
