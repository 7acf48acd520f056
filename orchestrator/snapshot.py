"""The stage `snapshot`: what git says of the project, and its content as plain blobs.

Owns the question clean or dirty, the commit that stands for a dirty tree, and the way from a commit to files
(submodules and LFS objects included). How git is called safely is git.py's part.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator import git, lfs
from orchestrator.errors import SourceError

# What Mirage itself writes into a project; never part of a snapshot, ignored by git or not.
OWN_FOLDERS = (".mirage/cache", ".mirage/runs", ".mirage/open", ".mirage/artifacts")
_OWN = re.compile(rb"(?:%s)(?:/|\Z)" % b"|".join(re.escape(each.encode()) for each in OWN_FOLDERS))
# What git refuses to check out, since it would leave the folder or change the repository.
_HOSTILE = re.compile(rb"(?:^|/)(?:\.git|\.\.?|)(?:/|\Z)", re.IGNORECASE)
_SHOWN = 20
_BATCH_BYTES = 64 << 20
_POINTER_BYTES = 1024  # an LFS pointer is smaller (git-lfs docs/spec.md)
_DEPTH = 16  # submodules in submodules
_LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z: RFC 3339 and Python have no later time
_REFETCH = "a partial or damaged clone: fetch it whole, `git fetch --refetch` or a new clone"
_UPDATE = "git submodule update --init --recursive"
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Mirage"), ("EMAIL", "mirage@localhost"))
}


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
class Snapshot:
    """The project at one commit. ``tree`` is the tree id of the project's own folder.

    ``base_commit`` is the commit that was checked out: another one than ``commit`` where ``dirty``.
    ``prefix`` is the project's path in its repository, empty at its root; ``commit_time`` in seconds
    since the epoch; ``lfs`` says that some file's content is in the clone's LFS store.
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


@dataclass(frozen=True)
class _Change:
    """One line of `git status -z --porcelain=v2`.

    ``letters`` as in the short format; ``path`` from the repository's root; ``staged`` is the index's
    `mode oid`, None where the index has no single entry.
    """

    letters: str
    path: str
    staged: str | None = None

    @property
    def unmerged(self) -> bool:
        """In conflict: git-status(1) lists these letters."""
        return "U" in self.letters or self.letters in ("DD", "AA")


@dataclass(frozen=True)
class _Part:
    """The files of one repository: the project's own, or a submodule's at ``prefix`` (with `/`) in the project.

    ``commit`` is the tree-ish whose attributes hold; ``changed`` is what a submodule has beside its commit.
    """

    repository: Path
    commit: str
    prefix: bytes
    files: tuple[SourceFile, ...]
    submodules: tuple[Submodule, ...] = ()
    changed: tuple[_Change, ...] = ()


def take(folder: Path, *, allow_dirty: bool) -> Snapshot:
    """The snapshot of the project in ``folder``.

    A dirty tree is refused with the list of its files, or, with ``allow_dirty``, becomes a commit of its own
    under `refs/mirage/snapshots/`: the same content on the same parent gives the same commit. Raises SourceError
    where there is no repository or no commit, and where git cannot give some content.
    """
    place = _locate(folder.resolve())
    own = [f":(top,exclude,literal){_below(place.prefix, each)}" for each in OWN_FOLDERS]
    with ThreadPoolExecutor(1) as pool:
        # Beside each other: most often the tree is clean, and the commit's files are the answer.
        committed = pool.submit(_parts, place, place.tree)
        changed = _changes(place.folder, place.settings, own)
    if changed and not allow_dirty:
        above = _below(place.prefix, "")
        raise _refusal(place, [replace(each, path=each.path.removeprefix(above)) for each in changed])
    root, tree = _trees_of_work(place, changed) if changed else (None, place.tree)
    parts = _parts(place, tree) if changed else committed.result()
    inside = [change for part in parts for change in part.changed]
    if inside and not allow_dirty:
        raise _refusal(place, inside)
    if inside:
        raise SourceError(
            f"submodules have changes of their own, which a snapshot of their parent cannot hold:{_list(inside)}",
            hint="commit them in the submodule, then run again",
        )
    commit = _commit_of(place, root) if root is not None and tree != place.tree else place.head
    stamp, filtered = _stamp_and_filtered(place, commit, parts)
    parts = [_with_pointers(part, commit) for part in parts] if filtered else parts
    files = tuple(file for part in parts for file in part.files)
    return Snapshot(
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
        submodules=tuple(module for part in parts for module in part.submodules),
        lfs=any(file.lfs for file in files),
    )


def read_blob(snapshot: Snapshot, path: bytes) -> bytes:
    """The content of one file. Raises SourceError where the commit has no such file."""
    for file in snapshot.files:
        if file.path == path:
            return next(data for _, data in read_blobs(snapshot, (file,)))
    raise SourceError(f"{git.printable(path)} is not in the commit {snapshot.commit[:12]}")


def read_blobs(snapshot: Snapshot, files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
    """The files with their content, an LFS object in the place of its pointer.

    At most about 64 MiB are held at once (one file where it is larger). Raises SourceError for an object that
    the clone does not have, naming the file.
    """
    folders: dict[Path, Path] = {}
    for repository, batch in _batches(files):
        for file, data in zip(batch, _objects(repository, [file.oid for file in batch]), strict=True):
            if data is None:
                raise _absent(file.path, file.oid)
            if file.lfs:
                if repository not in folders:
                    folders[repository] = _lfs_folder(repository)
                yield file, _smudged(file, data, folders[repository])
            else:
                yield file, data


def _absent(path: bytes, oid: str) -> SourceError:
    return SourceError(
        f"the content of {git.printable(path)} is not in this clone (object {oid})", hint=_REFETCH
    )


def _smudged(file: SourceFile, data: bytes, folder: Path) -> bytes:
    pointer = lfs.parse_pointer(data)
    content = None if pointer is None or pointer.extended else lfs.read_object(folder, pointer)
    if content is None:
        raise SourceError(
            f"{git.printable(file.path)} is a Git LFS pointer, and its object in this clone is absent or damaged",
            hint="git lfs fsck; git lfs pull",
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
    # Where there is a `refs/heads/HEAD` or `refs/tags/HEAD`, git prints nothing for the last word.
    if b"error: refname 'HEAD' is ambiguous" in done.stderr:
        asked = git.run(folder, "symbolic-ref", "--quiet", "HEAD")
        lines[-1:] = [os.fsdecode(asked.stdout.strip()) or "HEAD", ""]
    # The common folder may have newlines in its name; the branch, which is last, may not.
    common, symbolic = "\n".join(lines[5:-2]), lines[-2]
    branch = symbolic.removeprefix("refs/heads/") if symbolic.startswith("refs/heads/") else None
    place = _Place(
        folder=folder,
        top=Path(os.path.normpath(folder / up)),
        common=Path(os.path.normpath(folder / common)),
        head=head,
        tree=tree,
        branch=None if branch is None else git.printable(os.fsencode(branch)),
        shallow=shallow == "true",
        settings=git.settings(folder),
    )
    if git.printable(os.fsencode(place.prefix)) != place.prefix:
        raise SourceError(
            f"the project's folder has a name that is not UTF-8: {place.prefix!r}",
            hint="rename it: the name is part of the image's key",
        )
    return place


def _no_commit(folder: Path, complaint: str) -> SourceError:
    """Why there is nothing to run: no repository, no commit, or a project that is not in the commit."""
    if git.run(folder, "rev-parse", "--git-dir").code != 0:
        if "not a git repository" in complaint:
            return SourceError(
                f"{folder} is not in a git repository",
                hint="a run is made from a commit: git init && git add . && git commit -m Begin",
            )
        foreign = "dubious ownership" in complaint  # gits older than 2.38 do not take `-c safe.directory`
        return SourceError(
            f"git cannot read the repository of {folder}: {complaint}",
            hint=f"git config --global --add safe.directory {folder}" if foreign else None,
        )
    if git.run(folder, "rev-parse", "--is-inside-work-tree").stdout.strip() != b"true":
        return SourceError(
            f"{folder} is not in a work tree", hint="a bare repository cannot be run: clone it"
        )
    if git.run(folder, "rev-parse", "--verify", "--quiet", "HEAD^{tree}").code != 0:
        if git.run(folder, "rev-parse", "--verify", "--quiet", "HEAD").code == 0:
            return SourceError(
                f"the commit that is checked out in {folder} cannot be read: {complaint}", hint="git fsck"
            )
        return SourceError(
            f"the repository of {folder} has no commit yet",
            hint="a run is made from a commit: git add . && git commit -m Begin",
        )
    return SourceError(
        f"the folder {folder} is not in the commit that is checked out",
        hint="commit the project first: git add . && git commit",
    )


def _below(prefix: str, path: str) -> str:
    return f"{prefix}/{path}" if prefix else path


def _changes(folder: Path, settings: git.Settings, excluded: Sequence[str]) -> tuple[_Change, ...]:
    """What differs from the commit in a folder: staged or not, untracked files too.

    A submodule differs here only by its commit: `git status` would start a git in each whose work tree it looks
    into, and that one's config counts there. ``_parts`` asks each of them for itself.
    """
    words = ("status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=all")
    out = git.ask(
        folder,
        *words,
        "--ignore-submodules=dirty",
        "--",
        ".",
        *excluded,
        settings=settings.overrides,
    )
    found: list[_Change] = []
    for line in filter(None, out.split(b"\0")):
        kind = line[:1]
        if kind == b"?":
            found.append(_Change("??", os.fsdecode(line[2:])))
        elif kind in b"1u":
            # `1 XY sub mH mI mW hH hI path`; `u XY sub m1 m2 m3 mW h1 h2 h3 path`
            fields = line.split(b" ", 8 if kind == b"1" else 10)
            mode, oid = fields[4].decode(), fields[7].decode()
            staged = f"{mode} {oid}" if kind == b"1" and int(mode, 8) else None
            found.append(_Change(fields[1].decode().replace(".", " "), os.fsdecode(fields[-1]), staged))
    return tuple(found)


def _refusal(place: _Place, changed: Sequence[_Change]) -> SourceError:
    count = "1 file differs" if len(changed) == 1 else f"{len(changed)} files differ"
    note = ""
    if place.settings.inert:
        names = ", ".join(repr(name) for name in place.settings.inert)
        note = f"\n  (filters of the repository's own config are not run: {names})"
    return SourceError(
        f"the project is not as committed: {count} from it{_list(changed)}{note}",
        hint="commit them (git add, git commit), ignore them (.gitignore), or run what is there: --snapshot",
    )


def _list(changed: Sequence[_Change]) -> str:
    listed = "".join(f"\n  {change.letters} {change.path!r}" for change in changed[:_SHOWN])
    return listed + (f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")


def _trees_of_work(place: _Place, changed: Sequence[_Change]) -> tuple[str, str]:
    """HEAD's tree with the changed files as they are on disk, and the project's folder in it.

    Written from an index of our own. It begins as HEAD, not as a copy of the user's: what is staged or in
    conflict elsewhere in the repository has no part in it, and no file is taken as unchanged by its times.
    """
    _refuse_what_cannot_be_held(place, changed)
    gone: list[str] = []
    seeded: list[str] = []
    present: list[str] = []
    for change in changed:
        there = os.path.lexists(place.top / change.path) if change.unmerged else change.letters[1] != "D"
        if there and not (change.letters[0] == "D" and change.letters[1] == " "):
            present.append(change.path)
            if change.staged is not None:  # a mode that is only in the index: `git update-index --chmod`
                seeded.append(f"{change.staged}\t{change.path}")
        else:
            gone.append(f"0 {'0' * len(place.head)}\t{change.path}")
    with tempfile.TemporaryDirectory(prefix="mirage-index-") as name:

        def ask(*words: str, given: Sequence[str] = ()) -> str:
            stdin = os.fsencode("".join(f"{each}\0" for each in given))
            env = {"GIT_INDEX_FILE": str(Path(name) / "index")}
            return git.ask(
                place.top, *words, settings=place.settings.overrides, env=env, stdin=stdin
            ).decode()

        ask("read-tree", place.head)
        update = ("update-index", "--add", "--remove", "--replace", "-z")
        if gone or seeded:
            ask(*update, "--index-info", given=gone + seeded)
        if present:
            ask(*update, "--stdin", given=present)
        root = ask("write-tree").strip()
    if not place.prefix:
        return root, root
    return root, git.ask(place.top, "rev-parse", "--verify", f"{root}:{place.prefix}").decode().strip()


def _refuse_what_cannot_be_held(place: _Place, changed: Sequence[_Change]) -> None:
    for change in changed:
        if change.letters == "??" and change.path.endswith("/"):
            raise SourceError(
                f"{change.path!r} is a git repository of its own in the project, and no submodule of it",
                hint="make it one (git submodule add), ignore it (.gitignore) or take its .git away",
            )
    if not place.settings.inert:
        return
    stdin = os.fsencode("".join(f"{change.path}\0" for change in changed))
    fields = git.ask(place.top, "check-attr", "-z", "--stdin", "filter", stdin=stdin).split(b"\0")
    for path, value in zip(fields[0::3], fields[2::3], strict=False):
        if os.fsdecode(value) in place.settings.inert:
            raise SourceError(
                f"{git.printable(path)} goes through the filter {git.printable(value)!r}, which the repository's "
                "own config defines: Mirage does not run it, and would take the file unfiltered",
                hint="commit the file, or define the filter in your own config (git config --global)",
            )


def _commit_of(place: _Place, root: str) -> str:
    """A commit on HEAD whose tree is ``root`` and that is the same whenever the content is."""
    # `@`: git takes a small bare number for a year or a day (Documentation/date-formats.txt).
    content = git.ask(place.folder, "cat-file", "commit", place.head)
    date = f"@{_time_in(content, place.head)} +0000"
    env = {**_AUTHOR, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    words = ("commit-tree", root, "-p", place.head, "-m", "Mirage snapshot of uncommitted work")
    commit = git.ask(place.folder, *words, env=env).decode().strip()
    name = f"refs/mirage/snapshots/{commit}"
    git.ask(place.folder, "update-ref", name, commit, settings=place.settings.overrides)
    return commit


def _parts(place: _Place, tree: str) -> list[_Part]:
    """The project's files, then those of each submodule."""
    return list(_parts_of(place.folder, place.folder, tree, b"", (), 0))


def _parts_of(
    repository: Path, work: Path, tree: str, prefix: bytes, changed: tuple[_Change, ...], depth: int
) -> Iterator[_Part]:
    out = git.ask(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", tree)
    files: list[SourceFile] = []
    links: list[tuple[bytes, str]] = []
    for line in filter(None, out.split(b"\0")):
        head, _, path = line.partition(b"\t")
        mode, kind, oid, size = head.split()
        if _HOSTILE.search(path):
            raise SourceError(
                f"the commit holds a file that git itself would not write: {git.printable(path)}"
            )
        if depth == 0 and _OWN.match(path):
            continue
        if kind == b"commit":
            links.append((path, oid.decode()))
        elif size.isdigit():
            files.append(SourceFile(prefix + path, mode.decode(), oid.decode(), int(size), repository))
        else:  # `BAD`
            raise _absent(prefix + path, oid.decode())
    urls = _submodule_urls(repository, files, prefix) if links else {}
    modules = [Submodule(git.printable(prefix + path), urls.get(path), oid) for path, oid in links]
    yield _Part(repository, tree, prefix, tuple(files), tuple(modules), changed)
    for path, commit in links:
        inner, name = work / os.fsdecode(path), git.printable(prefix + path)
        if depth >= _DEPTH:
            raise SourceError(f"submodules are nested more than {_DEPTH} deep at {name!r}")
        inside = _changes_in_submodule(inner, name, commit, prefix + path)
        yield from _parts_of(inner, inner, commit, prefix + path + b"/", inside, depth + 1)


def _changes_in_submodule(inner: Path, name: str, commit: str, prefix: bytes) -> tuple[_Change, ...]:
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
    changed = _changes(inner, git.settings(inner), ())
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


def _stamp_and_filtered(place: _Place, commit: str, parts: Sequence[_Part]) -> tuple[int, bool]:
    """The commit's time, and whether some attributes speak of LFS, in one call of git where it has no submodules."""
    above = place.prefix.split("/") if place.prefix and "\n" not in place.prefix else []
    asked = [
        commit,
        *(f"{commit}:{'/'.join([*above[:count], '.gitattributes'])}" for count in range(len(above))),
    ]
    stamp, *attributes = _objects(place.folder, asked + _attributes_of(parts[0]))
    for part in parts[1:]:
        attributes += _objects(part.repository, _attributes_of(part))
    own = place.common / "info" / "attributes"
    filtered = own.is_file() or any(b"filter=lfs" in each for each in attributes if each)
    # `cat-file` takes one name a line: parents with a newline in their names are not asked, so all is looked at.
    return _time_in(stamp or b"", commit), filtered or "\n" in place.prefix


def _attributes_of(part: _Part) -> list[str]:
    return [file.oid for file in part.files if _is_attributes(file.path)]


def _with_pointers(part: _Part, commit: str) -> _Part:
    """The part with its LFS pointers marked: a pointer's content, in a file that has the attribute.

    Raises SourceError for those whose object this clone does not have: now, not after a build.
    """
    small = [file for file in part.files if file.size < _POINTER_BYTES and file.mode != "120000"]
    blobs = _objects(part.repository, [file.oid for file in small])
    found = {file.path: lfs.parse_pointer(data or b"") for file, data in zip(small, blobs, strict=True)}
    pointers = {path: pointer for path, pointer in found.items() if pointer is not None}
    if not pointers:
        return part
    # The attributes of the commit, not of the work tree or of the user (git-check-attr(1), --cached).
    with tempfile.TemporaryDirectory(prefix="mirage-index-") as name:
        env = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        git.ask(part.repository, "read-tree", part.commit if part.prefix else commit, env=env)
        words = ("check-attr", "--cached", "-z", "--stdin", "filter")
        stdin = b"".join(path.removeprefix(part.prefix) + b"\0" for path in pointers)
        settings = ("core.attributesFile=/dev/null",)
        fields = git.ask(part.repository, *words, settings=settings, env=env, stdin=stdin).split(b"\0")
    marked = {
        part.prefix + path for path, value in zip(fields[0::3], fields[2::3], strict=False) if value == b"lfs"
    }
    folder = _lfs_folder(part.repository) if marked else part.repository
    absent = [
        path for path in marked if pointers[path].extended or not lfs.has_object(folder, pointers[path])
    ]
    if absent:
        shown = "".join(f"\n  {git.printable(path)}" for path in sorted(absent)[:_SHOWN])
        more = f"\n  and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise SourceError(
            f"Git LFS pointers whose objects this clone does not have:{shown}{more}", hint="git lfs pull"
        )
    return replace(part, files=tuple(replace(file, lfs=file.path in marked) for file in part.files))


def _is_attributes(path: bytes) -> bool:
    return path.rpartition(b"/")[2] == b".gitattributes"


def _time_in(content: bytes, commit: str) -> int:
    """The committer's time in a commit object (git-cat-file(1) prints it raw), within 1970 to 9999."""
    for line in content.split(b"\n\n", 1)[0].split(b"\n"):
        if line.startswith(b"committer "):
            seconds = line.split()[-2]
            if seconds.removeprefix(b"-").isdigit():
                return min(max(0, int(seconds)), _LAST_SECOND)
    raise SourceError(f"the commit {commit} cannot be read", hint="git fsck")


def _lfs_folder(repository: Path) -> Path:
    """Where a clone keeps its LFS objects: `lfs.storage` (git-lfs-config(5)), by default `.git/lfs`."""
    out = git.ask(repository, "rev-parse", "--git-common-dir")
    common = repository / os.fsdecode(out.removesuffix(b"\n"))
    storage = git.run(repository, "config", "--null", "--get", "lfs.storage").stdout.removesuffix(b"\0")
    return common / (os.fsdecode(storage) or "lfs")


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
    stdin = os.fsencode("".join(f"{name}\n" for name in names))
    out = git.ask(repository, "cat-file", "--batch", stdin=stdin)
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
