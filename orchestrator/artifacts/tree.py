"""Trees: what an artifact's files are, as one canonical blob. Taking one from a folder is taking.py's.

A tree blob is NDJSON sorted by path: `{"p","t","x","s","d"}` with t = f (file), l (link), d (empty directory).
No times, no owners, no place in a pack: equal content gives an equal digest. Parsing checks everything, since
a tree may come from a store that somebody else wrote.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import ArtifactError, StoreError

MAX_FILES = 1_000_000
MAX_DEPTH = 128
# One KiB less than a path may have: the rest is for the folder in which a tree is laid out.
MAX_PATH = 3072

# RFC 8785 of strings and of sizes below 2^53, which is all that a line has; json's own encoder is seven times as fast.
_line = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)  # there may be a million of them
class TreeEntry:
    """One entry: a file (`digest`, `size`, `executable`), a link (`target`) or an empty directory."""

    path: str
    kind: str
    executable: bool = False
    size: int = 0
    digest: Digest | None = None
    target: str = ""

    def to_json(self) -> Json:
        """The line in a tree blob."""
        if self.kind == "f":
            return {"p": self.path, "t": "f", "x": int(self.executable), "s": self.size, "d": self.digest}
        return (
            {"p": self.path, "t": "l", "d": self.target} if self.kind == "l" else {"p": self.path, "t": "d"}
        )


def encode(entries: Iterable[TreeEntry]) -> bytes:
    """The blob of a tree."""
    blob = io.BytesIO()  # a list of the lines would take as much again
    for entry in sorted(entries, key=lambda entry: entry.path.encode()):
        blob.write(_line(entry.to_json()).encode() + b"\n")
    return blob.getvalue()


def parse(data: bytes) -> tuple[TreeEntry, ...]:
    """Read a tree blob, trusting nothing in it. Raises StoreError where any part cannot be used as a path."""
    entries: list[TreeEntry] = []
    kinds: dict[str, str] = {}
    line = b""
    try:
        for line in data.splitlines():
            if len(entries) == MAX_FILES:
                raise ValueError(f"more than {MAX_FILES:,} entries")
            entry = _parse_line(line)
            _place(kinds, entry)
            entries.append(entry)
        check_links(entries)
    except (ValueError, KeyError, TypeError, ArtifactError, StoreError, RecursionError) as error:
        raise StoreError(f"a tree in the store cannot be used: {error} in {line[:200]!r}") from error
    return tuple(entries)


def _parse_line(line: bytes) -> TreeEntry:
    item = json.loads(line)
    path, kind = check_path(item["p"]), item["t"]
    if path.count("/") > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if kind == "f":
        size = item["s"]
        if type(size) is not int or size < 0:
            raise ValueError(f"size {size!r}")
        return TreeEntry(path, "f", bool(item["x"]), size, parse_digest(item["d"]))
    if kind == "l":
        return TreeEntry(path, "l", target=check_link(path, item["d"]))
    if kind == "d":
        return TreeEntry(path, "d")
    raise ValueError(f"type {kind!r}")


def _place(kinds: dict[str, str], entry: TreeEntry) -> None:
    """Give an entry its place; ValueError where it is taken, or below something that is no directory."""
    if entry.path in kinds:
        raise ValueError("twice")
    above = entry.path.rpartition("/")[0]
    while above and above not in kinds:
        kinds[above] = "d"
        above = above.rpartition("/")[0]
    if above and kinds[above] != "d":
        raise ValueError("below something that is not a directory")
    kinds[entry.path] = entry.kind


def check_path(path: object) -> str:
    """Check a path inside an artifact before anything is opened by it. Raises ArtifactError."""
    if not isinstance(path, str) or not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise ArtifactError(f"a path in an artifact cannot be used: {str(path)[:200]!r}")
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path or not _is_text(path):
        raise ArtifactError(f"a path in an artifact cannot be used: {path[:200]!r}")
    return path


def check_link(path: str, target: object) -> str:
    """Check that a link is relative and stays inside its artifact. Raises ArtifactError."""
    if (
        isinstance(target, str)
        and target
        and not target.startswith("/")
        and "\0" not in target
        and _is_text(target)
    ):
        depth = path.count("/")
        for part in target.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                break
        else:
            return target
    raise ArtifactError(
        f"the link {path!r} -> {str(target)[:200]!r} leads out of the artifact",
        hint="save a copy of the file, or a relative link inside what is saved",
    )


def check_links(entries: Iterable[TreeEntry]) -> None:
    """Check that no chain of links leads out: after a step through a link, `..` is not where it is written.

    With ``a -> .``, ``b -> a/..`` stays inside by its letters, and leads out. Raises ArtifactError.
    """
    links = {entry.path: entry.target for entry in entries if entry.kind == "l"}
    for path, target in links.items():
        place = path.split("/")[:-1]
        through = False
        for part in target.split("/"):
            if part == "..":
                if through:
                    raise ArtifactError(
                        f"the link {path!r} -> {target[:200]!r} goes up again after it followed a link",
                        hint="save a copy of the file, or a link that does not pass another one",
                    )
                place.pop()
            elif part not in ("", "."):
                place.append(part)
                through = through or "/".join(place) in links


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
