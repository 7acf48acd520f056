"""uv in the builder: which packages go together in one call, what it is told, and what its failures mean."""

from __future__ import annotations

import platform as host
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.engine_values import disk_full
from orchestrator.errors import EngineError, ImageError, LockError, MirageError
from orchestrator.image.base import Base
from orchestrator.locks.pinned import Index, Lock, Pinned, without_login

PYTHON = "/opt/venv/bin/python"
WHEELS = "/build/wheels"
LINKS = "/build/links"
_PIP = ("--python", PYTHON, "--no-deps", "--only-binary", ":all:")
INSTALL = ("pip", "install", *_PIP, "--require-hashes")
HASHES = ("pip", "compile", *_PIP, "--generate-hashes", "--no-header", "--no-annotate")
# where the host would look for packages; what the lock says comes in the place of it
_PLACES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_INDEX_STRATEGY",
)
_UNREACHABLE = ("dns error", "failed to fetch", "connection refused", "timed out", "unknownissuer")

Env = tuple[tuple[str, str], ...]


class NotInstallable(LockError):
    """The installer found no file to install for some package of the lock."""


@dataclass(frozen=True)
class Batch:
    """Packages that come from one place, the installer's environment for it, and their file in the builder."""

    packages: tuple[Pinned, ...]
    env: Env
    file: str

    def content(self, *, backwards: bool = False) -> bytes:
        """The requirements, sorted."""
        lines = sorted((p.requirement() for p in self.packages), reverse=backwards)
        return "".join(f"{line}\n" for line in lines).encode()


def never_built(names: Iterable[str]) -> bytes:
    """Settings of uv by which these packages require nothing, so that it runs no code of theirs to learn that.

    For calls with `--no-deps`; uv's documentation, "Settings", dependency-metadata.
    """
    return "".join(
        f'[[dependency-metadata]]\nname = "{name}"\nrequires-dist = []\n' for name in sorted(set(names))
    ).encode()


def batches(lock: Lock, env: Env, built: frozenset[str]) -> list[Batch]:
    """The lock's packages by where they come from: the host's index, one that the lock names, or built here."""
    places: dict[Index | None | str, list[Pinned]] = {}
    for package in lock.packages:
        places.setdefault("built" if package.name in built else package.index, []).append(package)
    found = []
    for number, (place, packages) in enumerate(sorted(places.items(), key=lambda item: str(item[0]))):
        if isinstance(place, str):
            told = _from_here(env)
        elif place is None:
            told = _beside(env, lock)
        else:
            told = only(env, place)
        found.append(Batch(tuple(packages), told, f"/build/requirements-{number}.txt"))
    return found


def only(env: Env, index: Index) -> Env:
    """The installer's environment for packages that may come from one index alone."""
    return _with(env, UV_DEFAULT_INDEX=_with_login(env, index))


def _from_here(env: Env) -> Env:
    return from_folder(env, WHEELS)


def from_folder(env: Env, folder: str) -> Env:
    """The installer's environment for packages that lie in a folder of the builder."""
    return _with(env, UV_NO_INDEX="1", UV_FIND_LINKS=folder, UV_OFFLINE="1")


def beside_folder(env: Env, folder: str) -> Env:
    """The installer's environment for packages that lie in a folder of the builder, or come from the host's places."""
    told = dict(env)
    told["UV_FIND_LINKS"] = ",".join(
        [folder, *([told["UV_FIND_LINKS"]] if told.get("UV_FIND_LINKS") else [])]
    )
    return tuple(sorted(told.items()))


def places(env: Env, lock: Lock) -> Env:
    """The installer's environment for packages that name no index of their own."""
    return _beside(env, lock)


def _beside(env: Env, lock: Lock) -> Env:
    """The host's places, with those that the whole lock names in place of its index or beside it."""
    told = dict(env)
    if lock.index is not None:
        told = dict(only(env, lock.index))
    if lock.more_indexes:
        more = [_with_login(env, index) for index in lock.more_indexes]
        told["UV_INDEX"] = " ".join([*more, *([told["UV_INDEX"]] if told.get("UV_INDEX") else [])])
        if lock.hashed:  # what may be installed is known by its bytes, so it does not matter who has it
            told["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if lock.links:
        told["UV_FIND_LINKS"] = ",".join(
            [*lock.links, *([told["UV_FIND_LINKS"]] if told.get("UV_FIND_LINKS") else [])]
        )
    return tuple(sorted(told.items()))


def also_from(env: Env, index: Index | None) -> Env:
    """The host's places and one more, for what a source distribution needs to be built."""
    if index is None:
        return env
    told = dict(env)
    told["UV_INDEX"] = " ".join(
        [_with_login(env, index), *([told["UV_INDEX"]] if told.get("UV_INDEX") else [])]
    )
    return tuple(sorted(told.items()))


def _with(env: Env, **told: str) -> Env:
    return tuple(sorted({**{name: value for name, value in env if name not in _PLACES}, **told}.items()))


def _with_login(env: Env, index: Index) -> str:
    """The index as uv takes it, with the login that the host has in its own setting of the same address."""
    for name, value in env:
        if name in _PLACES:
            for word in value.split():
                url = word.partition("=")[2] if "=" in word.partition("://")[0] else word
                if url != without_login(url) and without_login(url).rstrip("/") == index.url.rstrip("/"):
                    return Index(url, index.name).spelled()
    return index.spelled()


def program() -> bytes:
    """The installer's own program, from this machine's uv package. Raises ImageError where it cannot run there."""
    import uv

    if host.system() != "Linux":
        raise ImageError(
            f"the builder needs uv for Linux, and this machine's is for {host.system()}",
            hint="run mirage on Linux (a container with the engine's socket will do)",
        )
    return Path(uv.find_uv_bin()).read_bytes()


def broken(program: str, code: int, output: str) -> MirageError:
    """What it means that another program failed in the builder."""
    text = tail(output)
    message = f"{program.rpartition('/')[2]} failed in the builder (exit code {code}):\n{text}"
    full = disk_full(text)
    return ImageError(message) if full is None else EngineError(message, hint=full)


def failure(lock: Lock, base: Base, output: str) -> MirageError:
    """What uv's complaint about a lock means."""
    text = tail(output)
    lowered = text.lower()
    if (full := disk_full(text)) is not None:
        return EngineError(f"the packages of {lock.path} could not be installed:\n{text}", hint=full)
    if any(sign in lowered for sign in _UNREACHABLE):
        return LockError(
            f"the packages of {lock.path} could not be downloaded:\n{text}",
            hint="check proxy, CA bundle and index of this machine (`build:` in .mirage/project.yaml), then run again",
        )
    if "hash mismatch" in lowered:
        return LockError(
            f"{lock.path} names other files than the index has now:\n{text}",
            hint=f"if you trust the new files, write the hashes anew: {_anew(lock)}",
        )
    return NotInstallable(
        f"{lock.path} cannot be installed on {base.platform}, Python {base.python.version}:\n{text}",
        hint="make the lock for that platform and Python version, from files that the index has",
    )


def _anew(lock: Lock) -> str:
    return {
        "poetry": "`poetry lock --regenerate`",
        "pipfile": "`pipenv lock --clear`",
        "uv": "`uv lock --refresh`",
        "pylock": "with the tool that wrote it",
    }.get(lock.kind, f"`uv pip compile --generate-hashes {lock.path} -o {lock.path}`")


def tail(output: str, lines: int = 20) -> str:
    """The last lines of a program's output, for a message."""
    return "\n".join(f"  {line}" for line in output.strip().splitlines()[-lines:])


def names(packages: Iterator[Pinned] | tuple[Pinned, ...]) -> str:
    """Packages for a message."""
    return ", ".join(f"{package.name}=={package.version}" for package in packages)
