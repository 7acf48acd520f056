"""What a project's Dockerfile is made of, as a base's key sees it: its bytes, its FROMs, and the files that it copies.

Reads the project, builds nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ConfigError
from orchestrator.image import dockerfile, registry_base
from orchestrator.image.base_image import Base
from orchestrator.image.dockerfile import Dockerfile, From
from orchestrator.image.layer import Entry
from orchestrator.image.oci import Platform
from orchestrator.source import git

SEALING_VERSION = 1  # counts up when the same Dockerfile would be sealed into other bytes
MIRAGE_BASE = "BASE_IMAGE"  # the build argument that stands for Mirage's own base


@dataclass(frozen=True)
class Start:
    """What a FROM was resolved to: a base of ours, or a registry's image; ``reference`` is its name in the engine."""

    line: From
    reference: str
    digest: Digest
    base: Base | None


@dataclass(frozen=True)
class Recipe:
    """A Dockerfile with the project's files that it copies; ``digest`` covers both."""

    name: str
    file: Dockerfile
    starts: tuple[From, ...]
    context: tuple[Entry, ...]
    digest: Digest

    @property
    def source(self) -> str:
        """What a base of this recipe says of where it came from."""
        return f"dockerfile:{self.name}@{self.digest}"


def load(name: str, project: Path) -> Recipe:
    """Read a Dockerfile and what it copies from the project. Raises ConfigError with file and line."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "" in parts:
        raise ConfigError(
            f"base: {name} lies outside of the project", hint="name a path inside of the project"
        )
    try:
        data = (project / name).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the base {name} cannot be read from the project: {error.strerror}",
            hint="copy Dockerfile.base from Mirage's repository into the project, or name another base",
        ) from error
    file = dockerfile.parse(name, data)
    starts = tuple(dockerfile.froms(file, {MIRAGE_BASE: MIRAGE_BASE}))
    context = tuple(_context(file, project))
    described: list[Json] = [
        [quote_from_bytes(e.path), e.kind, e.executable, of_bytes(e.data)] for e in context
    ]
    digest = canonical.digest({"dockerfile": of_bytes(data), "files": described})
    return Recipe(name, file, starts, context, digest)


def key_manifest(recipe: Recipe, starts: tuple[Start, ...], platform: Platform) -> bytes:
    """Everything that decides what a Dockerfile becomes, but for what its commands fetch that day."""
    return canonical.encode(
        {
            "schema": "mirage-dockerfile-key/1",
            "dockerfile": recipe.digest,
            "from": [start.digest for start in starts],
            "platform": str(platform),
            "sealing": SEALING_VERSION,
        }
    )


def starts_of(
    recipe: Recipe, mirage_base: Callable[[], Base], pinned: Callable[[str], Digest | None]
) -> tuple[Start, ...]:
    """What the file's FROMs mean. Raises ConfigError, with its line, for a moving name that is not pinned."""
    found: list[Start] = []
    for each in recipe.starts:
        if each.image == MIRAGE_BASE:
            base = mirage_base()
            found.append(Start(each, base.tag, base.digest, base))
            continue
        reference = registry_base.parse(each.image)
        digest = reference.digest or pinned(each.image)
        if digest is None:
            recipe.file.refuse(
                each.line,
                f"FROM {each.image} is a moving name",
                f"`mirage base pin {recipe.name}` finds and keeps its digest; or write {each.image}@sha256:...",
            )
        found.append(Start(each, reference.exact(digest), digest, None))
    return tuple(found)


def _context(file: Dockerfile, project: Path) -> Iterator[Entry]:
    """The project's files that git knows or would take, as far as COPY and ADD name them."""
    sources = tuple(dockerfile.sources(file))
    if not sources:
        return
    listed = git.ask(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = sorted({path for path in listed.split(b"\0") if path})
    used: set[dockerfile.Source] = set()
    for raw in paths:
        meant = {each for each in sources if dockerfile.takes(each, os.fsdecode(raw))}
        path = Path(os.fsdecode(os.path.join(os.fsencode(project), raw)))
        if not meant or not (path.is_symlink() or path.is_file()):
            continue
        used |= meant
        if path.is_symlink():
            yield Entry(raw, "link", data=os.fsencode(os.readlink(path)))
        else:
            yield Entry(raw, "file", bool(path.stat().st_mode & 0o111), data=path.read_bytes())
    for each in sources:
        if each not in used:
            file.refuse(
                each.line,
                f"{each.path or '.'} is no file of the project's repository",
                "is it ignored by git? only what git takes can be part of a base: git add -f",
            )
