"""Which key signs here: MIRAGE_SIGN_KEY, else `sign.key` of the project, else the user's own key where there is one.

Also where the user's own key lies, and how a passphrase is come by. A key inside of the repository is refused: what is
in there is one `git add` from being everybody's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.trust.keys import Signer

AUTO, NONE = "auto", "none"
_KEY = "MIRAGE_SIGN_KEY"
_WORD, _WORD_FILE = "MIRAGE_SIGN_PASSPHRASE", "MIRAGE_SIGN_PASSPHRASE_FILE"


def own_key(environment: Mapping[str, str]) -> Path:
    """Where `mirage key new` puts the user's own key: below the user's config folder."""
    home = environment.get("XDG_CONFIG_HOME") or str(
        Path(environment.get("HOME") or "~").expanduser() / ".config"
    )
    return Path(home) / "mirage" / "sign.pem"


def chosen(setting: str, project: Path, environment: Mapping[str, str]) -> Path | None:
    """The private key's file, None where nothing is signed. Raises ConfigError for one inside of the repository."""
    asked = environment.get(_KEY) or setting
    if asked == NONE:
        return None
    if asked == AUTO:
        found = own_key(environment)
        return found if found.is_file() else None
    path = Path(asked).expanduser()
    if not path.is_absolute():
        # a relative path of the committed project.yaml could only mean a file beside it
        path = Path(os.path.abspath(path)) if environment.get(_KEY) else project / path
    refuse_inside(path, repository_of(project) or Path(os.path.realpath(project)))
    return path


def refuse_inside(path: Path, top: Path | None) -> None:
    """Raise ConfigError where a private key lies, or would lie, inside of a repository; None is no repository."""
    if top in Path(os.path.realpath(path)).parents:
        raise ConfigError(
            f"the private key {path} is inside of the repository {top}",
            hint="move it out, to ~/.ssh or below ~/.config/mirage: what lies in a repository gets committed",
        )


def repository_of(folder: Path) -> Path | None:
    """The root of the repository that a folder lies in, as files show it."""
    folder = Path(os.path.realpath(folder))
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def lazily(setting: str, project: Path, environment: Mapping[str, str]) -> Callable[[], Signer | None]:
    """What gives the signer when it is first asked, and None where nothing is signed."""
    known: list[Signer | None] = []

    def signer() -> Signer | None:
        if not known:
            path = chosen(setting, project, environment)
            known.append(None if path is None else _load(path, environment))
        return known[0]

    return signer


def _load(path: Path, environment: Mapping[str, str]) -> Signer:
    from orchestrator.trust.keys import load_signer

    return load_signer(path, lambda of: passphrase(of, environment))


def passphrase(path: Path, environment: Mapping[str, str]) -> bytes:
    """The passphrase of a key: from a file, from the environment, or asked for at a terminal. Raises ConfigError."""
    if name := environment.get(_WORD_FILE):
        try:
            return Path(name).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise ConfigError(f"{_WORD_FILE}: {name} cannot be read: {error.strerror}") from error
    if (word := environment.get(_WORD)) is not None:
        return word.encode("utf-8", "surrogateescape")
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the key {path} needs a passphrase, and there is no terminal to ask for it",
            hint=f"{_WORD_FILE} names a file that holds it, {_WORD} is it; MIRAGE_SIGN_KEY=none runs unsigned",
        )
    from getpass import getpass

    return getpass(f"passphrase of {path}: ").encode("utf-8", "surrogateescape")
