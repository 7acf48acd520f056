"""A clean checkout of a commit with its submodules, which borrows the objects of the repositories here and is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from orchestrator.errors import CannotVerify, SourceError
from orchestrator.image.base_lock import LOCK_FILE
from orchestrator.source import git

_DEPTH = 16  # submodules in submodules
_LINK = b"160000"


@contextmanager
def checked_out(project: Path, commit: str, prefix: str) -> Iterator[Path]:
    """The project's folder of a commit, checked out apart. Raises CannotVerify where something of it is not here."""
    asked = git.run(project, "rev-parse", "--verify", "--quiet", "--git-common-dir", f"{commit}^{{commit}}")
    if asked.code != 0:
        raise CannotVerify(
            f"the commit {commit} is not in the repository of {project}",
            hint="fetch it, or use a store that has the image's layers",
        )
    common = (project / Path(asked.stdout.decode().splitlines()[0])).resolve()
    top = project / os.fsdecode(git.ask(project, "rev-parse", "--show-cdup").rstrip(b"\n"))
    with tempfile.TemporaryDirectory(prefix="mirage-rebuild-") as made:
        folder = Path(made) / "checkout"
        try:
            _one(folder, common, commit)
            _submodules(folder, common, top, os.fsencode(prefix), 0)
        except (SourceError, OSError) as error:
            raise CannotVerify(f"{commit[:12]} cannot be checked out: {error}") from error
        yield folder / prefix


def _one(folder: Path, common: Path, commit: str) -> None:
    """One repository's commit in a folder of its own, with the objects of another one."""
    folder.mkdir(parents=True, exist_ok=True)
    git.ask(folder, "init", "--quiet", *_object_format(commit))
    own = folder / ".git"
    (own / "objects" / "info" / "alternates").write_text(f"{common / 'objects'}\n")
    if (common / "lfs").is_dir():
        (own / "lfs").symlink_to(common / "lfs")
    (own / "info").mkdir(exist_ok=True)
    (own / "info" / "exclude").write_text(f"**/{LOCK_FILE}\n")
    git.ask(folder, "update-ref", "--no-deref", "HEAD", commit)
    git.ask(folder, "read-tree", "HEAD")
    git.ask(folder, "checkout-index", "--all", "--quiet")


def _submodules(folder: Path, common: Path, work: Path, prefix: bytes, depth: int) -> None:
    """The submodules below ``prefix``, each at the commit that its parent names; ``work`` is where people have them."""
    links = []
    for line in filter(None, git.ask(folder, "ls-tree", "-r", "-z", "--full-tree", "HEAD").split(b"\0")):
        head, _, path = line.partition(b"\t")
        if head.startswith(_LINK) and (not prefix or path.startswith(prefix + b"/")):
            links.append((path, head.split()[2].decode()))
    names = _names(folder) if links else {}
    for path, commit in links:
        place = os.fsdecode(path)
        _check_way(folder, place)
        if depth >= _DEPTH:
            raise SourceError(f"submodules are nested more than {_DEPTH} deep at {place!r}")
        found = _repository(common, work / place, names.get(path), commit)
        if found is None:
            raise CannotVerify(
                f"the submodule {git.printable(path)} is not here at its commit {commit}",
                hint="git submodule update --init --recursive, at the run's commit",
            )
        _one(folder / place, found, commit)
        _submodules(folder / place, found, work / place, b"", depth + 1)


def _check_way(folder: Path, place: str) -> None:
    """That a submodule's folder is reached through folders only. A tree may name one path twice (git writes no such tree,
    and takes it): as a link, and as a folder with the submodule in it, which would then be written where the link leads.
    """
    for at in accumulate(place.split("/"), lambda above, part: f"{above}/{part}"):
        if (folder / at).is_symlink():
            raise SourceError(
                f"the submodule {git.printable(os.fsencode(place))} lies behind the link {at!r}"
            )


def _names(folder: Path) -> dict[bytes, str]:
    """The names of submodules by their paths, from the commit's `.gitmodules`."""
    words = ("config", "--file", ".gitmodules", "--null", "--get-regexp", r"^submodule\..*\.path$")
    found = {}
    for item in filter(None, git.run(folder, *words).stdout.split(b"\0")):
        key, _, path = item.partition(b"\n")
        found[path] = os.fsdecode(key.removeprefix(b"submodule.").removesuffix(b".path"))
    return found


def _repository(common: Path, work: Path, name: str | None, commit: str) -> Path | None:
    """The repository that has a submodule's commit: below its parent's, or in its own folder (git-submodule(1))."""
    candidates = []
    # git itself refuses such names (CVE-2018-11235): they would lead out of `modules`
    if name is not None and ".." not in name.split("/") and not name.startswith("/"):
        candidates.append(common / "modules" / name)
    if (work / ".git").exists():
        asked = git.run(work, "rev-parse", "--git-common-dir")
        if asked.code == 0:
            candidates.append((work / os.fsdecode(asked.stdout.rstrip(b"\n"))).resolve())
    for each in candidates:
        if each.is_dir() and git.run(each, "cat-file", "-e", f"{commit}^{{commit}}").code == 0:
            return each
    return None


def _object_format(commit: str) -> list[str]:
    return ["--object-format=sha256"] if len(commit) == 64 else []
