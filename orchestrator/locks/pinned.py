"""What a lock says, as values: packages at one version, their files, indexes and dependencies. Reads no file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.canonical import Json
from orchestrator.digest import Digest
from orchestrator.errors import LockError

_VARIABLE = re.compile(r"\$(\{\w+\}|\w+)")
_USERINFO = re.compile(r"//[^/\s]*@")
# Where every host looks, unless it has a mirror of it: told by its name.
_PUBLIC_FILES = re.compile(r"https://files\.pythonhosted\.[a-z]+/.*")
_PUBLIC = re.compile(r"https://pypi\.[a-z]+/(simple/?)?")
MAIN = "main"
EXTRA = "extra."


@dataclass(frozen=True)
class File:
    """One file of a package that the lock allows; ``url`` is empty where the lock leaves it to the index."""

    name: str
    hashes: tuple[str, ...]
    url: str = ""

    @property
    def is_wheel(self) -> bool:
        """Whether it is installed as it is, instead of built first."""
        return self.name.endswith(".whl")


@dataclass(frozen=True)
class Index:
    """A package index that a lock names; without a login. ``name`` is what credentials go by, where it has one."""

    url: str
    name: str = ""

    def spelled(self) -> str:
        """As uv takes it."""
        return f"{self.name}={self.url}" if self.name else self.url


@dataclass(frozen=True)
class Edge:
    """A dependency: a name, which versions (PEP 440; empty: any), with which extras, when."""

    name: str
    versions: str = ""
    extras: tuple[str, ...] = ()
    marker: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Pinned:
    """One package at one version; ``hashes`` are those of the files that may be installed for it.

    ``files`` is empty where the lock does not list them; ``url`` is where the one file is, for a package that comes
    from no index; ``index`` is the only index that it may come from; ``build`` says that there is no wheel to use,
    and that the hashes are those of a source distribution. ``vcs`` is the repository and commit that it is built from
    in the place of one (vcs.py); its version may be unknown (empty) until then. ``requires`` and ``extra_names`` are
    for locks that say who needs whom (Lock.roots). ``problem`` is why it cannot be installed, told if it is chosen.
    """

    name: str
    version: str
    extras: tuple[str, ...]
    marker: str | None
    hashes: tuple[str, ...]
    line: int
    url: str = ""
    index: Index | None = None
    files: tuple[File, ...] = ()
    requires_python: str = ""
    build: bool = False
    vcs: str = ""
    problem: str = ""
    requires: tuple[Edge, ...] = ()
    extra_names: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is the same on every platform, as far as the lock says."""
        return not (self.marker or self.files or self.requires_python or self.problem)

    def requirement(self) -> str:
        """The line that an installer takes, in one normal form.

        Raises LockError where a part of it would not stay within its line.
        """
        for part in (self.name, self.version, self.url, self.vcs, *self.extras, *self.hashes):
            if not part.isprintable() or " " in part:
                raise LockError(
                    f"the lock has something for {self.name} that cannot be installed: {part[:80]!r}"
                )
        if "${" in self.url + self.vcs:
            raise LockError(
                f"the address of {self.name} has a variable in it: {shown(self.url or self.vcs)}",
                hint="an installer would put what this machine has there, a login of an index for instance, and send it",
            )
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        at = self.url or self.vcs
        which = f" @ {at}" if at else f"=={self.version}"
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}{extras}{which}{marker}" + "".join(f" --hash={h}" for h in self.hashes)

    def to_json(self) -> Json:
        """What enters the environment's key: what was chosen, not what there was to choose from."""
        found: dict[str, Json] = {
            "name": self.name,
            "version": self.version,
            "extras": list(self.extras),
            "marker": self.marker,
            "hashes": list(self.hashes),
        }
        if self.url:
            found["url"] = without_login(self.url)
        if self.index is not None:
            found["index"] = self.index.url
        if self.build:
            found["build"] = True
        if self.vcs:
            found["vcs"] = self.vcs
        return found


@dataclass(frozen=True)
class Lock:
    """A parsed lock file; ``digest`` is that of the file's own bytes.

    ``roots`` is None where every package is meant whose marker holds, and otherwise what the project needs itself.
    ``extras`` and ``groups`` are the chosen ones, for markers that ask (PEP 751).
    ``index`` and ``more_indexes`` are for packages that name none of their own: in place of the host's, and beside
    it; ``links`` are pages of links to files. ``notes`` says what was left out.
    ``loose`` are requirements that pin nothing, which are to be resolved within ``constraints``
    (image/resolving.py); only where the project asks for that.
    """

    kind: str
    path: str
    digest: Digest
    packages: tuple[Pinned, ...]
    roots: tuple[Edge, ...] | None = None
    requires_python: str = ""
    environments: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    index: Index | None = None
    more_indexes: tuple[Index, ...] = ()
    links: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def hashed(self) -> bool:
        """Whether every package names the files that may be installed."""
        return all(package.hashes or package.vcs for package in self.packages)

    @property
    def has_groups(self) -> bool:
        """Whether `environment.groups` chooses among its packages."""
        return self.kind != "requirements"

    def requirements(self) -> bytes:
        """The whole lock in the installer's form, sorted."""
        return "".join(f"{line}\n" for line in sorted(p.requirement() for p in self.packages)).encode()

    def to_json(self) -> dict[str, Json]:
        """What enters the environment's key of a lock that was narrowed to one platform."""
        found: dict[str, Json] = {"kind": self.kind, "packages": [each.to_json() for each in self.packages]}
        if self.index is not None or self.more_indexes or self.links:
            found["indexes"] = [
                None if self.index is None else self.index.url,
                *(i.url for i in self.more_indexes),
                *self.links,
            ]
        return found


def normal_name(name: str) -> str:
    """The normal form of a package's name (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def index_of(url: str, name: str = "") -> Index | None:
    """An index as a lock names it, or None for the public one, whose place a host's mirror may take."""
    bare = without_login(url)
    return None if not bare or _PUBLIC.fullmatch(bare) else Index(bare, name)


def place_of(url: str) -> str:
    """The URL of a file, or nothing where the public index has it, whose place a host's mirror may take."""
    return "" if _PUBLIC_FILES.fullmatch(url) else without_login(url)


def without_login(url: str) -> str:
    """A URL without the user name and password in it."""
    return _USERINFO.sub("//", url)


def holds_login(url: str) -> bool:
    """Whether a user name or a password is written out in a URL; `${NAME}` is pip's and pipenv's word for neither."""
    parts = urlsplit(url)
    return any(word and not _VARIABLE.fullmatch(word) for word in (parts.username, parts.password))


def shown(text: str) -> str:
    """Text of the lock for a message, without user names and passwords of its URLs."""
    return repr(_USERINFO.sub("//", text))


def either(markers: Iterable[str | None]) -> str | None:
    """The marker that holds where one of several does; None holds always."""
    found = list(dict.fromkeys(markers))
    if None in found or not found:
        return None
    return " or ".join(f"({each})" for each in found) if len(found) > 1 else found[0]


_EXTRA_TERM = re.compile(r"""extra\s*(==|!=)\s*["']([^"']*)["']|["']([^"']*)["']\s*(==|!=)\s*extra\b""")


def with_extras(marker: str | None, extras: Iterable[str]) -> str | None:
    """A marker in which what it asks of extras is answered: any of those chosen may be the one that is meant."""
    chosen = {normal_name(name) for name in extras}

    def answered(match: re.Match[str]) -> str:
        name, operator = match[2] or match[3] or "", match[1] or match[4]
        holds = (normal_name(name) in chosen) == (operator == "==")
        return f'os_name {"!=" if holds else "=="} ""'

    return None if marker is None else _EXTRA_TERM.sub(answered, marker)


def own_groups(groups: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`environment.groups` as (groups without main, extras)."""
    extras = tuple(normal_name(name.removeprefix(EXTRA)) for name in groups if name.startswith(EXTRA))
    return tuple(name for name in groups if name != MAIN and not name.startswith(EXTRA)), extras
