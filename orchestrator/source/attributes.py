"""What a commit's attributes say of LFS: whether they speak of it, and which files are pointers by them.

The pointers' grammar and their objects are lfs.py's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.source import git, lfs, objects
from orchestrator.source.checkout import Checkout
from orchestrator.source.listing import Part


def stamp_and_filtered(
    checkout: Checkout, commit: str, parts: Sequence[Part], ahead: Sequence[str]
) -> tuple[int, bool, tuple[tuple[str, bytes], ...]]:
    """The commit's time, whether some attributes speak of LFS, and the blobs ``ahead`` of the project's own files.

    In one call of git where there are no submodules.
    """
    above = checkout.prefix.split("/") if checkout.prefix and "\n" not in checkout.prefix else []
    asked = [
        commit,
        *(f"{commit}:{'/'.join([*above[:count], '.gitattributes'])}" for count in range(len(above))),
    ]
    stamp, *attributes = objects.contents(checkout.folder, [*asked, *_attributes_of(parts[0]), *ahead])
    attributes, read = attributes[: len(attributes) - len(ahead)], attributes[len(attributes) - len(ahead) :]
    for part in parts[1:]:
        attributes += objects.contents(part.repository, _attributes_of(part))
    own = checkout.common / "info" / "attributes"
    filtered = own.is_file() or any(b"filter=lfs" in each for each in attributes if each)
    # `cat-file` takes one name a line: parents with a newline in their names are not asked, so all is looked at.
    held = tuple((oid, data) for oid, data in zip(ahead, read, strict=True) if data is not None)
    return objects.commit_time(stamp or b"", commit), filtered or "\n" in checkout.prefix, held


def _attributes_of(part: Part) -> list[str]:
    return [file.oid for file in part.files if file.path.rpartition(b"/")[2] == b".gitattributes"]


def with_pointers(part: Part, commit: str) -> Part:
    """The part with its LFS pointers marked: a pointer's content, in a file that has the attribute.

    Raises SourceError for those whose object this clone does not have: now, not after a build.
    """
    small = [file for file in part.files if file.size < lfs.POINTER_BYTES and file.mode != "120000"]
    blobs = objects.contents(part.repository, [file.oid for file in small])
    found = {file.path: lfs.parse_pointer(data or b"") for file, data in zip(small, blobs, strict=True)}
    pointers = {path: pointer for path, pointer in found.items() if pointer is not None}
    if not pointers:
        return part
    # The attributes of the commit, not of the work tree or of the user (git-check-attr(1), --cached).
    import tempfile  # few repositories have such files

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
    folder = lfs.folder_of(part.repository) if marked else part.repository
    absent = [
        path for path in marked if pointers[path].extended or not lfs.has_object(folder, pointers[path])
    ]
    if absent:
        shown = git.listed([git.printable(path) for path in sorted(absent)])
        raise SourceError(
            f"Git LFS pointers whose objects this clone does not have:{shown}", hint="git lfs pull"
        )
    return replace(part, files=tuple(replace(file, lfs=file.path in marked) for file in part.files))
