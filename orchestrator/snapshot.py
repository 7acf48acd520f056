"""The stage `snapshot`: what git says of the project, and its content as plain blobs.

Owns the question clean or dirty, the commit that stands for a dirty tree, and the way from a commit to files
(submodules and LFS objects included). How git is called safely is git.py's part.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import git, lfs
from orchestrator.errors import SourceError

# What Mirage itself writes into a project; never part of a snapshot, ignored by git or not.
OWN_FOLDERS = (".mirage/cache", ".mirage/runs", ".mirage/open", ".mirage/artifacts")
_SHOWN = 20
_BATCH_BYTES = 64 << 20
_POINTER_BYTES = 1024  # an LFS pointer is smaller (git-lfs docs/spec.md)
_DEPTH = 16  # submodules in submodules
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Mirage"), ("EMAIL", "mirage@localhost"))
}


@dataclass(frozen=True)
class SourceFile:
    """A file of the commit: its path below the project (raw bytes), git's mode, its blob and where that lies."""

    path: bytes
    mode: str  # 100644, 100755 or 120000
    oid: str
    size: int
    repository: Path


@dataclass(frozen=True)
class Submodule:
    """A submodule at the commit that its parent names."""

    path: str
    url: str | None
    commit: str


@dataclass(frozen=True)
class Snapshot:
    """The project at one commit. ``tree`` is the tree id of the project's own folder.

    ``base_commit`` is the commit that was checked out: another one than ``commit`` where ``dirty``.
    ``prefix`` is the project's path in its repository, empty at its root; ``commit_time`` in seconds
    since the epoch; ``lfs`` says that pointer files stand for objects of the clone's LFS store.
    """

    folder: Path
    commit: str
    base_commit: str
    tree: str
    prefix: str
    commit_time: int
    branch: str | None
    remote: str | None
    dirty: bool
    shallow: bool
    files: tuple[SourceFile, ...]
    submodules: tuple[Submodule, ...]
    lfs: bool


@dataclass(frozen=True)
class _Place:
    """Where the project is in its repository, and what is checked out there."""

    folder: Path
    top: Path
    common: Path
    head: str
    tree: str
    branch: str | None
    shallow: bool
    settings: git.Settings

    @property
    def prefix(self) -> str:
        """The project's path below the repository's root, with `/`."""
        inside = self.folder.relative_to(self.top).as_posix()
        return "" if inside == "." else inside


def take(folder: Path, *, allow_dirty: bool) -> Snapshot:
    """The snapshot of the project in ``folder``.

    A dirty tree is refused with the list of its files, or, with ``allow_dirty``, becomes a commit of its own
    under `refs/mirage/snapshots/`: the same content on the same parent gives the same commit. Raises SourceError
    where there is no repository or no commit, and where git cannot give some content.
    """
    place = _locate(folder.resolve())
    filters = _filter_overrides(place)
    changed = _changes(place, filters)
    commit, tree = place.head, place.tree
    if changed:
        if not allow_dirty:
            raise _refusal(changed)
        tree = _tree_of_work(place, filters, changed)
        if tree != place.tree:
            commit = _commit_of(place, tree)
    files, submodules = _listing(place.folder, place.folder, tree, b"", place.folder, 0)
    stamp, attributes = _stamp_and_attributes(place, commit, files)
    taken = Snapshot(
        folder=place.folder,
        commit=commit,
        base_commit=place.head,
        tree=tree,
        prefix=place.prefix,
        commit_time=stamp,
        branch=place.branch,
        remote=place.settings.remote,
        dirty=commit != place.head,
        shallow=place.shallow,
        files=files,
        submodules=submodules,
        lfs=b"filter=lfs" in attributes,
    )
    if taken.lfs:
        for _ in read_blobs(taken, (file for file in files if file.size < _POINTER_BYTES)):
            pass  # a pointer without its object is told now, not after a build
    return taken


def read_blob(snapshot: Snapshot, path: bytes) -> bytes:
    """The content of one file. Raises SourceError where the commit has no such file."""
    for file in snapshot.files:
        if file.path == path:
            return next(data for _, data in read_blobs(snapshot, (file,)))
    raise SourceError(f"{os.fsdecode(path)} is not in the commit {snapshot.commit[:12]}")


def read_blobs(snapshot: Snapshot, files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
    """The files with their content, an LFS object in the place of its pointer.

    At most about 64 MiB are held at once (one file where it is larger). Raises SourceError for an object that
    the clone does not have, naming the file.
    """
    for repository, batch in _batches(files):
        for file, data in zip(batch, _objects(repository, [file.oid for file in batch]), strict=True):
            if data is None:
                raise SourceError(
                    f"the content of {os.fsdecode(file.path)} is not in this clone (object {file.oid})",
                    hint="a partial or damaged clone: fetch it whole, `git fetch --refetch` or a new clone",
                )
            yield file, _smudged(file, data) if snapshot.lfs else data


def _smudged(file: SourceFile, data: bytes) -> bytes:
    pointer = lfs.parse_pointer(data) if file.mode != "120000" else None
    if pointer is None:
        return data
    content = None if pointer.extended else lfs.read_object(_common_dir(file.repository), pointer)
    if content is None:
        raise SourceError(
            f"{os.fsdecode(file.path)} is a Git LFS pointer, and this clone does not have its object "
            f"({pointer.size} bytes, sha256:{pointer.oid[:12]}...)",
            hint="git lfs pull",
        )
    return content


def _locate(folder: Path) -> _Place:
    words = ("--is-inside-work-tree", "--is-shallow-repository", "--show-cdup", "HEAD^{commit}", "HEAD:./")
    done = git.run(folder, "rev-parse", *words, "--git-common-dir", "--symbolic-full-name", "HEAD")
    if done.code != 0:
        raise _no_commit(folder, done.complaint)
    lines = os.fsdecode(done.stdout).split("\n")
    inside, shallow, up, head, tree = lines[:5]
    if inside != "true":
        raise SourceError(f"{folder} is not in a work tree", hint="a bare repository cannot be run: clone it")
    # The common folder may have newlines in its name; the branch, which is last, may not.
    common, symbolic = "\n".join(lines[5:-2]), lines[-2]
    return _Place(
        folder=folder,
        top=Path(os.path.normpath(folder / up)),
        common=Path(os.path.normpath(folder / common)),
        head=head,
        tree=tree,
        branch=symbolic.removeprefix("refs/heads/") if symbolic.startswith("refs/heads/") else None,
        shallow=shallow == "true",
        settings=git.settings(folder),
    )


def _no_commit(folder: Path, complaint: str) -> SourceError:
    """Why there is nothing to run: no repository, no commit, or a project that is not in the commit."""
    if git.run(folder, "rev-parse", "--git-dir").code != 0:
        if "not a git repository" in complaint:
            return SourceError(
                f"{folder} is not in a git repository",
                hint="a run is made from a commit: git init && git add . && git commit -m Begin",
            )
        return SourceError(f"git cannot read the repository of {folder}: {complaint}")
    if git.run(folder, "rev-parse", "--is-inside-work-tree").stdout.strip() != b"true":
        return SourceError(
            f"{folder} is not in a work tree", hint="a bare repository cannot be run: clone it"
        )
    if git.run(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").code != 0:
        return SourceError(
            f"the repository of {folder} has no commit yet",
            hint="a run is made from a commit: git add . && git commit -m Begin",
        )
    return SourceError(
        f"the folder {folder} is not in the commit that is checked out",
        hint="commit the project first: git add . && git commit",
    )


def _filter_overrides(place: _Place) -> tuple[str, ...]:
    """Settings that keep a repository's own filters, and those of its submodules, from being started."""
    found = list(place.settings.overrides)
    modules = place.common / "modules"
    if modules.is_dir():
        for config in modules.rglob("config"):
            if (config.parent / "HEAD").is_file():
                found += git.settings(config.parent).overrides
    return tuple(dict.fromkeys(found))


def _own_excluded(place: _Place) -> list[str]:
    prefix = place.prefix + "/" if place.prefix else ""
    return [".", *(f":(top,exclude,literal){prefix}{folder}" for folder in OWN_FOLDERS)]


@dataclass(frozen=True)
class _Change:
    """One line of `git status`: two letters as in its short format, the path, a submodule's own state."""

    letters: str
    path: str
    in_submodule: bool


def _changes(place: _Place, filters: Sequence[str]) -> tuple[_Change, ...]:
    """What differs from the commit in the project's folder: staged or not, untracked files too."""
    words = ("status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=all")
    out = git.ask(
        place.folder,
        *words,
        "--ignore-submodules=none",
        "--",
        *_own_excluded(place),
        settings=filters,
        env={"GIT_LITERAL_PATHSPECS": "0"},
    )
    found: list[_Change] = []
    for line in filter(None, out.split(b"\0")):
        kind = line[:1]
        if kind == b"?":
            found.append(_Change("??", os.fsdecode(line[2:]), False))
        elif kind in b"1u":
            # `1 XY sub mH mI mW hH hI path`; `u XY sub m1 m2 m3 mW h1 h2 h3 path`
            fields = line.split(b" ", 8 if kind == b"1" else 10)
            state = fields[2]
            inner = state[:1] == b"S" and (b"M" in state or b"U" in state)
            found.append(_Change(fields[1].decode().replace(".", " "), os.fsdecode(fields[-1]), inner))
    return tuple(found)


def _refusal(changed: Sequence[_Change]) -> SourceError:
    listed = "".join(f"\n  {change.letters} {change.path!r}" for change in changed[:_SHOWN])
    more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    count = f"{len(changed)} file{'s' if len(changed) != 1 else ''}"
    return SourceError(
        f"the project is not as committed: {count} differ{'s' if len(changed) == 1 else ''} from it{listed}{more}",
        hint="commit them (git add, git commit), ignore them (.gitignore), or run what is there: --snapshot",
    )


def _tree_of_work(place: _Place, filters: Sequence[str], changed: Sequence[_Change]) -> str:
    """The tree of the project's folder as it is on disk, written from an index of our own."""
    for change in changed:
        if change.in_submodule:
            raise SourceError(
                f"the submodule {change.path!r} has changes of its own, which a snapshot of its parent cannot hold",
                hint="commit them in the submodule, then run again",
            )
    with tempfile.TemporaryDirectory(prefix="mirage-index-") as name:
        index = Path(name) / "index"
        own = git.ask(place.folder, "rev-parse", "--git-path", "index")
        current = place.folder / os.fsdecode(own.removesuffix(b"\n"))
        if current.exists():
            shutil.copy2(current, index)  # with its time stamp: git tells racy entries by it
        env = {"GIT_INDEX_FILE": str(index), "GIT_LITERAL_PATHSPECS": "0"}
        git.ask(place.folder, "add", "-A", "--", *_own_excluded(place), settings=filters, env=env)
        words = ["write-tree"]
        if place.prefix:
            words.append(f"--prefix={place.prefix}/")
        return git.ask(place.folder, *words, env=env).decode().strip()


def _commit_of(place: _Place, tree: str) -> str:
    """A commit on HEAD whose project folder is ``tree`` and that is the same whenever the content is."""
    root = tree
    if place.prefix:
        with tempfile.TemporaryDirectory(prefix="mirage-index-") as name:
            env = {"GIT_INDEX_FILE": str(Path(name) / "index")}
            git.ask(place.top, "read-tree", place.head, env=env)
            git.ask(place.top, "rm", "-r", "-q", "--cached", "--", place.prefix, env=env)
            git.ask(place.top, "read-tree", f"--prefix={place.prefix}/", tree, env=env)
            root = git.ask(place.top, "write-tree", env=env).decode().strip()
    date = f"{_commit_time(place.folder, place.head)} +0000"
    env = {**_AUTHOR, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    words = ("commit-tree", root, "-p", place.head, "-m", "Mirage snapshot of uncommitted work")
    commit = git.ask(place.folder, *words, env=env).decode().strip()
    git.ask(place.folder, "update-ref", f"refs/mirage/snapshots/{commit}", commit)
    return commit


def _listing(
    repository: Path, work: Path, tree: str, prefix: bytes, project: Path, depth: int
) -> tuple[tuple[SourceFile, ...], tuple[Submodule, ...]]:
    """The files of a tree, those of its submodules included, and the submodules."""
    out = git.ask(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", tree)
    files: list[SourceFile] = []
    links: list[tuple[bytes, str]] = []
    for line in filter(None, out.split(b"\0")):
        head, _, path = line.partition(b"\t")
        mode, kind, oid, size = head.split()
        if any(part in (b"", b".", b"..") for part in path.split(b"/")):
            raise SourceError(f"the commit holds a file that climbs out of it: {os.fsdecode(path)!r}")
        if kind == b"commit":
            links.append((path, oid.decode()))
        else:
            files.append(SourceFile(prefix + path, mode.decode(), oid.decode(), int(size), repository))
    modules: list[Submodule] = []
    if links:
        urls = _submodule_urls(repository, files, prefix)
        for path, commit in links:
            name = os.fsdecode(prefix + path)
            inner = work / os.fsdecode(path)
            modules.append(Submodule(name, urls.get(path), commit))
            if depth >= _DEPTH:
                raise SourceError(f"submodules are nested more than {_DEPTH} deep at {name!r}")
            if not (inner / ".git").exists() or os.path.realpath(inner) != str(inner):
                raise SourceError(
                    f"the submodule {name!r} is not checked out",
                    hint="git submodule update --init --recursive",
                )
            if git.run(inner, "cat-file", "-e", f"{commit}^{{commit}}").code != 0:
                raise SourceError(
                    f"the submodule {name!r} does not have the commit {commit[:12]} that its parent names",
                    hint="git submodule update --init --recursive",
                )
            more, below = _listing(inner, inner, commit, prefix + path + b"/", project, depth + 1)
            files += more
            modules += below
    return tuple(files), tuple(modules)


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
        each[b"path"]: git.public_url(os.fsdecode(each[b"url"]))
        for each in by_name.values()
        if b"path" in each and b"url" in each
    }


def _stamp_and_attributes(place: _Place, commit: str, files: Sequence[SourceFile]) -> tuple[int, bytes]:
    """The commit's time, and everything that says which files have filters, in one call of git."""
    asked = [commit]
    asked += [file.oid for file in files if file.repository == place.folder and _is_attributes(file.path)]
    parts = place.prefix.split("/") if place.prefix and "\n" not in place.prefix else []
    asked += [f"{commit}:{'/'.join([*parts[:count], '.gitattributes'])}" for count in range(len(parts))]
    first, *rest = _objects(place.folder, asked)
    own = place.common / "info" / "attributes"
    attributes = b"\n".join([each or b"" for each in rest] + ([own.read_bytes()] if own.is_file() else []))
    for module in {file.repository for file in files if file.repository != place.folder}:
        mine = [file.oid for file in files if file.repository == module and _is_attributes(file.path)]
        attributes += b"\n".join(each or b"" for each in _objects(module, mine))
    return _time_in(first or b"", commit), attributes


def _is_attributes(path: bytes) -> bool:
    return path.rpartition(b"/")[2] == b".gitattributes"


def _commit_time(folder: Path, commit: str) -> int:
    return _time_in(git.ask(folder, "cat-file", "commit", commit), commit)


def _time_in(content: bytes, commit: str) -> int:
    """The committer's time in a commit object (git-cat-file(1) prints it raw), never before 1970."""
    for line in content.split(b"\n\n", 1)[0].split(b"\n"):
        if line.startswith(b"committer "):
            seconds = line.split()[-2]
            if seconds.removeprefix(b"-").isdigit():
                return max(0, int(seconds))
    raise SourceError(f"the commit {commit} cannot be read", hint="git fsck")


def _common_dir(repository: Path) -> Path:
    out = git.ask(repository, "rev-parse", "--git-common-dir")
    return repository / os.fsdecode(out.removesuffix(b"\n"))


def _batches(files: Iterable[SourceFile]) -> Iterator[tuple[Path, list[SourceFile]]]:
    """Files of one repository at a time, in their order, not too many bytes at once."""
    batch: list[SourceFile] = []
    size = 0
    for file in files:
        if batch and (file.repository != batch[0].repository or size + file.size > _BATCH_BYTES):
            yield batch[0].repository, batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch[0].repository, batch


def _objects(repository: Path, names: Sequence[str]) -> Iterator[bytes | None]:
    """The objects' contents by `git cat-file --batch`; None where the clone does not have one."""
    if not names:
        return
    out = git.ask(repository, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
    at = 0
    for _ in names:
        end = out.index(b"\n", at)
        head = out[at:end].split(b" ")
        at = end + 1
        if len(head) == 3 and head[2].isdigit():
            size = int(head[2])
            yield out[at : at + size]
            at += size + 1
        else:  # `<name> missing`, or `<name> ambiguous`
            yield None
