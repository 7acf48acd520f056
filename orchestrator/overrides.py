"""`--set a.b=v`: changing one value of a config, and adding one with `--set +a.b=v`.

Values are read as the YAML of the file itself, so `1e-3` is a float here and there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator import yamlcore
from orchestrator.canonical import Json
from orchestrator.errors import ConfigError, nearest
from orchestrator.settings import shown

_SUGGESTED = 2000  # paths that a search for the nearest looks at
_DEPTH = 64  # keys in a path, as many as levels in a file


@dataclass(frozen=True)
class Override:
    """One `--set`: where, and the text of the value (parsed afresh each time, so nothing is shared)."""

    text: str
    path: tuple[str, ...]
    value_text: str
    add: bool

    @property
    def option(self) -> str:
        """The option as messages show it."""
        return f"--set {self.text[:100]}"

    @property
    def dotted(self) -> str:
        """The path as it was written."""
        return ".".join(self.path)

    def value(self) -> Json:
        """The value. Raises ConfigError where it is not YAML."""
        where = f"--set {self.dotted}"
        try:
            return yamlcore.parse(self.value_text.encode("utf-8", "surrogateescape"), where).value
        except ConfigError as error:  # an option has no lines
            message = re.sub(r"^:[0-9]+", "", error.message.removeprefix(where))
            raise ConfigError(where + message, hint=error.hint) from error


def parse(text: str) -> Override:
    """Read `a.b=v` or `+a.b=v`. Raises ConfigError for another form."""
    path_text, equals, value = text.partition("=")
    add = path_text.startswith("+")
    path = tuple(path_text.removeprefix("+").split("."))
    if not equals or len(path) > _DEPTH or not all(part.strip() and part.isprintable() for part in path):
        raise ConfigError(
            f"--set {text[:100]}: expected a path, = and a value", hint="for example --set training.lr=1e-3"
        )
    override = Override(text, path, value, add)
    override.value()
    return override


def apply(values: dict[str, Json], override: Override) -> tuple[str | int, ...]:
    """Change ``values`` in place; gives the path that was set, list indexes as numbers.

    Raises ConfigError for a key that does not exist (or, with `+`, for one that does), naming the nearest.
    """
    here: Json = values
    path: tuple[str | int, ...] = ()
    for number, part in enumerate(override.path):
        last = number + 1 == len(override.path)
        if isinstance(here, dict):
            if part not in here:
                if not override.add:
                    raise _unknown(values, override)
                here[part] = {}
            elif last and override.add:
                raise _exists(override)
            if last:
                here[part] = override.value()
            path, here = (*path, part), here[part]
        elif isinstance(here, list):
            index = _index(here, part, override, append=override.add and last)
            if index == len(here):
                here.append(None)
            elif last and override.add:
                raise _exists(override)
            if last:
                here[index] = override.value()
            path, here = (*path, index), here[index]
        else:
            before = ".".join(override.path[:number])
            raise ConfigError(
                f"{override.option}: {before} is {shown(here)}, it has no {part!r} inside",
                hint=f"--set '{before}={{{part}: ...}}' replaces it by a mapping",
            )
    return path


def _index(items: list[Json], part: str, override: Override, *, append: bool) -> int:
    allowed = len(items) if append else len(items) - 1
    if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part) <= allowed):
        raise ConfigError(
            f"{override.option}: {part!r} is no index of a list of {len(items)} (expected 0 to {allowed})",
            hint="`--set +LIST.N=v` with N one beyond the last item appends" if not append else None,
        )
    return int(part)


def _unknown(values: dict[str, Json], override: Override) -> ConfigError:
    known = [path for path, _ in zip(_paths(values, ""), range(_SUGGESTED), strict=False)]
    last = override.path[-1]
    close = [path for path in known if path.rpartition(".")[2] == last] or nearest(override.dotted, known, 1)
    adds = f"`--set +{override.dotted}=...` adds a new one"
    return ConfigError(
        f"{override.option}: the config has no {override.dotted}",
        hint=f"did you mean {' or '.join(close[:3])}? {adds}" if close else adds,
    )


def _exists(override: Override) -> ConfigError:
    return ConfigError(
        f"{override.option}: {override.dotted} exists already",
        hint=f"`--set {override.text.removeprefix('+')[:100]}` changes it",
    )


def _paths(value: Json, prefix: str) -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield f"{prefix}{key}"
        yield from _paths(item, f"{prefix}{key}.")
