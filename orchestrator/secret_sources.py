"""Where the values of secrets come from: the caller's environment, a file, or a command, never the project.

A project's config has names only; which value belongs to a name is the user's own business, on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from orchestrator import process
from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.redaction import LEAST, NONE, Secrets

LIMIT = 64 << 10  # bytes of one value
_PATIENCE = 120.0  # seconds for a command, which may ask an agent or a person
_KINDS = ("env", "file", "command")


class SecretsMissing(ConfigError):
    """Secrets that a run needs have no value here."""

    def __init__(self, names: tuple[str, ...]) -> None:
        several = len(names) > 1
        name = names[0]
        super().__init__(
            f"the secret{'s' if several else ''} {', '.join(names)} {'have' if several else 'has'} no value here",
            hint=f"set {name} or MIRAGE_SECRET_{name}_FILE in the environment, or name a file or a command for it in "
            f"{_shown(user_file(os.environ))}",
        )
        self.names = names


def user_file(environ: Mapping[str, str]) -> Path:
    """The user's own list of sources, outside of every repository."""
    home = environ.get("HOME")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home or str(Path.home()), ".config")
    return Path(config) / "mirage" / "secrets.yaml"


def gather(names: Iterable[str], environ: Mapping[str, str]) -> Secrets:
    """The values of these secrets.

    In this order, for a NAME: `MIRAGE_SECRET_NAME_FILE` or `MIRAGE_SECRET_NAME_COMMAND`, the user's secrets.yaml, the
    variable NAME. One line end at the end of a file or of a command's output does not count. From now on no program
    that this process starts gets the variables.

    Raises SecretsMissing for those without a value, ConfigError for a source that cannot be used.
    """
    wanted = tuple(names)
    if not wanted:
        return NONE
    process.withhold(wanted)
    listed = _listed(user_file(environ))
    found: list[tuple[str, bytes]] = []
    missing: list[str] = []
    for name in wanted:
        source = _own(name, environ) or listed.get(name) or ("env", name, name)
        value = _read(*source, environ)
        if not value:
            missing.append(name)
        else:
            found.append((name, _usable(name, value)))
    if missing:
        raise SecretsMissing(tuple(missing))
    return Secrets(tuple(found))


def refuse_in(secrets: Secrets, places: Iterable[tuple[str, bytes]]) -> None:
    """Check that no value stands in what will be committed, baked into an image or recorded. Raises ConfigError."""
    for place, data in places:
        name = secrets.redactor.found_in(data)
        if name is not None:
            raise ConfigError(
                f"the value of the secret {name} stands in {place}",
                hint="take it out: the workflow reads it with mirage.secret(). If it was ever committed, change the secret",
            )


_Source = tuple[str, str, object]


def _own(name: str, environ: Mapping[str, str]) -> _Source | None:
    """What the environment says of a secret's source: (kind, where that is said, what)."""
    given = [(kind, f"MIRAGE_SECRET_{name}_{kind.upper()}") for kind in _KINDS[1:]]
    there = [(kind, variable) for kind, variable in given if environ.get(variable)]
    if len(there) > 1:
        raise ConfigError(f"{there[0][1]} and {there[1][1]} are both set", hint="set one of them")
    return (there[0][0], there[0][1], environ[there[0][1]]) if there else None


def _listed(path: Path) -> dict[str, _Source]:
    """The user's file: NAME: {env: VARIABLE}, {file: PATH} or {command: WORDS}."""
    try:
        status = path.stat()
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{_shown(path)} cannot be read: {error.strerror}") from error
    if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{_shown(path)} could be changed by somebody else, and it names commands",
            hint=f"chmod go-w {_shown(path)}, and see that it is yours",
        )
    from orchestrator import yamlcore  # only a run with secrets comes here

    document = yamlcore.parse(data, str(path))
    if not isinstance(document.value, dict):
        raise ConfigError(f"{document.at()}: expected a mapping of names to sources")
    found: dict[str, _Source] = {}
    for name, item in document.value.items():
        where = document.at((name,))
        if not isinstance(item, dict) or len(item) != 1:
            raise ConfigError(
                f"{where}: {name}: expected one of env, file, command, such as {{file: ~/token}}"
            )
        ((kind, what),) = item.items()
        if kind not in _KINDS:
            near = "values do not belong into files like this one" if kind == "value" else None
            raise ConfigError(
                f"{where}: unknown source {kind!r} of {name} (known: {', '.join(_KINDS)})",
                hint=near or did_you_mean(kind, [*_KINDS]),
            )
        found[name] = (kind, where, what)
    return found


def _read(kind: str, where: str, what: object, environ: Mapping[str, str]) -> bytes:
    readers: dict[str, Callable[[str, object, Mapping[str, str]], bytes]] = {
        "env": _from_variable,
        "file": _from_file,
        "command": _from_command,
    }
    return readers[kind](where, what, environ)


def _from_variable(where: str, what: object, environ: Mapping[str, str]) -> bytes:
    if not isinstance(what, str) or not re.fullmatch(r"\w+", what):
        raise ConfigError(f"{where}: expected the name of a variable")
    process.withhold([what])
    return os.fsencode(environ.get(what, ""))


def _from_file(where: str, what: object, environ: Mapping[str, str]) -> bytes:
    path = Path(what).expanduser() if isinstance(what, str) and what else None
    if path is None or not path.is_absolute():
        raise ConfigError(f"{where}: expected the absolute path of a file")
    try:
        with path.open("rb") as stream:
            return _without_line_end(stream.read(LIMIT + 2))
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}") from error


def _from_command(where: str, what: object, environ: Mapping[str, str]) -> bytes:
    try:
        words = shlex.split(what) if isinstance(what, str) else what
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise ConfigError(f"{where}: expected a command: a line, or a list of words")
    try:
        done = process.run(words, timeout=_PATIENCE)
    except process.ProgramMissing as error:
        raise ConfigError(f"{where}: there is no program {words[0]}") from error
    except (TimeoutError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if done.code != 0:
        # nothing of its output: it may be the value
        raise ConfigError(f"{where}: {words[0]} ended with {done.code}", hint="run it by hand to see why")
    return _without_line_end(done.stdout)


def _without_line_end(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _usable(name: str, value: bytes) -> bytes:
    if not LEAST <= len(value) <= LIMIT:
        raise ConfigError(
            f"the secret {name} has {len(value)} bytes; from {LEAST} to {LIMIT} can be used",
            hint="a shorter one could not be told from other text in logs" if len(value) < LEAST else None,
        )
    return value


def _shown(path: Path) -> str:
    home = os.environ.get("HOME")
    return str(path).replace(home, "~", 1) if home and str(path).startswith(home + "/") else str(path)
