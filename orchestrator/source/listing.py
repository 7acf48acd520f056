"""Which files a tree holds, its submodules' included: paths, modes and blobs, and what is changed in submodules.

Reads no file's content but `.gitmodules`; which files are LFS pointers is attributes.py's part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git, objects, state
from orchestrator.source.checkout import Checkout
from orchestrator.source.work_tree import Change, changes

# What Mirage itself writes into a project; never part of a snapshot, ignored by git or not.
OWN_FOLDERS = (".mirage/cache", ".mirage/runs", ".mirage/open", ".mirage/artifacts")
_OWN = re.compile(rb"(?:%s)(?:/|\Z)" % b"|".join(re.escape(each.encode()) for each in OWN_FOLDERS))
# What git refuses to check out, since it would leave the folder or change the repository.
_HOSTILE = re.compile(rb"(?:^|/)(?:\.git|\.\.?|)(?:/|\Z)", re.IGNORECASE)
_LINE = re.compile(rb"([0-7]{6}) ([a-z]+) ([0-9a-f]{40}|[0-9a-f]{64}) +([0-9]{1,19}|-|BAD)\t(.+)", re.DOTALL)
_DEPTH = 16  # submodules in submodules
_UPDATE = "git submodule update --init --recursive"


@dataclass(frozen=True)
class SourceFile:
    """A file of the commit: its path below the project (raw bytes), git's mode, its blob and where that lies.

    ``lfs`` says that the blob is a pointer to an object of the clone's LFS store; ``size`` is the blob's.
    """

    path: bytes
    mode: str  # 100644, 100755 or 120000
    oid: str
    size: int
    repository: Path
    lfs: bool = False


@dataclass(frozen=True)
class Submodule:
    """A submodule at the commit that its parent names."""

    path: str
    url: str | None
    commit: str


@dataclass(frozen=True)
class Part:
    """The files of one repository: the project's own, or a submodule's at ``prefix`` (with `/`) in the project.

    ``commit`` is the tree-ish whose attributes hold; ``changed`` is what a submodule has beside its commit.
    """

    repository: Path
    commit: str
    prefix: bytes
    files: tuple[SourceFile, ...]
    submodules: tuple[Submodule, ...] = ()
    changed: tuple[Change, ...] = ()


def parts(checkout: Checkout, tree: str) -> list[Part]:
    """The project's files, then those of each submodule."""
    return list(_parts_of(checkout.folder, checkout.folder, tree, b"", (), 0))


def entries(out: bytes) -> Iterator[tuple[str, bytes, str, bytes, bytes]]:
    """Mode, kind, object, size and path of each line of `ls-tree -r -z -l`. Raises SourceError."""
    for line in filter(None, out.split(b"\0")):
        found = _LINE.fullmatch(line)
        if found is None:
            raise SourceError(f"git listed a file in a way that is not known: {git.printable(line[:200])}")
        mode, kind, oid, size, path = found.groups()
        if _HOSTILE.search(path):
            raise SourceError(
                f"the commit holds a file that git itself would not write: {git.printable(path)}"
            )
        yield mode.decode(), kind, oid.decode(), size, path


def _parts_of(
    repository: Path, work: Path, tree: str, prefix: bytes, changed: tuple[Change, ...], depth: int
) -> Iterator[Part]:
    out = git.ask(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", tree)
    files: list[SourceFile] = []
    links: list[tuple[bytes, str]] = []
    for mode, kind, oid, size, path in entries(out):
        if depth == 0 and _OWN.match(path):
            state.refuse([git.printable(path)])
            continue
        if kind == b"commit":
            links.append((path, oid))
        elif size.isdigit():
            files.append(SourceFile(prefix + path, mode, oid, int(size), repository))
        else:  # `BAD`
            raise objects.absent(prefix + path, oid)
    urls = _submodule_urls(repository, files, prefix) if links else {}
    modules = [Submodule(git.printable(prefix + path), urls.get(path), oid) for path, oid in links]
    yield Part(repository, tree, prefix, tuple(files), tuple(modules), changed)
    for path, commit in links:
        inner, name = work / os.fsdecode(path), git.printable(prefix + path)
        if depth >= _DEPTH:
            raise SourceError(f"submodules are nested more than {_DEPTH} deep at {name!r}")
        inside = _changes_in_submodule(inner, name, commit, prefix + path)
        yield from _parts_of(inner, inner, commit, prefix + path + b"/", inside, depth + 1)


def _changes_in_submodule(inner: Path, name: str, commit: str, prefix: bytes) -> tuple[Change, ...]:
    """What is changed in a submodule, by paths from the project. Raises SourceError where it is not there."""
    if not (inner / ".git").exists() or os.path.realpath(inner) != str(inner):
        raise SourceError(f"the submodule {name!r} is not checked out", hint=_UPDATE)
    # An empty `.git` folder is no repository, and git would look for one further up.
    found = git.run(inner, "rev-parse", "--show-cdup", "--verify", f"{commit}^{{commit}}")
    if not found.stdout.startswith(b"\n"):
        raise SourceError(f"the submodule {name!r} is not checked out", hint=_UPDATE)
    if found.code != 0:
        raise SourceError(
            f"the submodule {name!r} does not have the commit {commit[:12]} that its parent names",
            hint=_UPDATE,
        )
    changed = changes(inner, git.settings(inner), ())
    return tuple(replace(each, path=f"{os.fsdecode(prefix)}/{each.path}") for each in changed)


def _submodule_urls(repository: Path, files: Sequence[SourceFile], prefix: bytes) -> dict[bytes, str]:
    """The addresses in `.gitmodules` by path, without credentials."""
    blob = next((file.oid for file in files if file.path == prefix + b".gitmodules"), None)
    if blob is None:
        return {}
    done = git.run(
        repository, "config", "--blob", blob, "--null", "--get-regexp", r"^submodule\..*\.(path|url)$"
    )
    by_name: dict[bytes, dict[bytes, bytes]] = {}
    for item in filter(None, done.stdout.split(b"\0")):
        key, _, value = item.partition(b"\n")
        name, _, what = key.rpartition(b".")
        by_name.setdefault(name, {})[what] = value
    return {
        each[b"path"]: git.public_url(git.printable(each[b"url"]))
        for each in by_name.values()
        if b"path" in each and b"url" in each
    }
