"""What a setting accepts: one reader for each kind of value, from YAML data to what the settings hold.

Knows no key and no file: a reader says what it expected, and settings.py says where.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from orchestrator.canonical import Json, encode
from orchestrator.errors import did_you_mean
from orchestrator.yamlschema import MAX_INTEGER

Path = tuple[str | int, ...]
Reader = Callable[[Json], Any]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smh]?)")
PROJECT = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9:/_-]*")
LEAST_MEMORY = 6 << 20  # Docker refuses less ("Minimum memory limit allowed is 6MB")


class Slack(NamedTuple):
    """A setting of `tolerance:`; how far the numbers of an output may lie apart, and what is not looked at."""

    rtol: float = 0.0
    atol: float = 0.0
    ignore: tuple[str, ...] = ()


class Unfit(Exception):
    """A value that a reader cannot take: what it expects, what to do, and where inside the value it is."""

    def __init__(self, expected: str, *, problem: str = "", hint: str | None = None, at: Path = ()) -> None:
        super().__init__(expected)
        self.expected = expected
        self.problem = problem  # instead of "expected ..., got ..."
        self.hint = hint
        self.at = at


def one_of(*words: str) -> Reader:
    """One of these words."""

    def read(value: Json) -> str:
        if not isinstance(value, str) or value not in words:
            near = did_you_mean(value, list(words)) if isinstance(value, str) else None
            raise Unfit(" or ".join(words), hint=near)
        return value

    return read


def some_of(*words: str) -> Reader:
    """A list of some of these words, sorted, each once; it may be empty."""

    def read(value: Json) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise Unfit(f"a list of some of {', '.join(words)}")
        for number, item in enumerate(value):
            if item not in words:
                near = did_you_mean(item, list(words)) if isinstance(item, str) else None
                raise Unfit(" or ".join(words), hint=near, at=(number,))
        return tuple(sorted({str(item) for item in value}))

    return read


def optional(reader: Reader) -> Reader:
    """Null, or what ``reader`` takes."""

    def read(value: Json) -> Any:
        return None if value is None else reader(value)

    return read


def matching(grammar: re.Pattern[str], expected: str) -> Reader:
    """A string of a grammar."""

    def read(value: Json) -> str:
        if not isinstance(value, str) or not grammar.fullmatch(value):
            raise Unfit(expected)
        return value

    return read


def text(value: Json) -> str:
    """A string with something in it."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise Unfit("a non-empty string")
    return value


def location(value: Json) -> str:
    """A path, a name or a URL; not one that carries a password into a committed file."""
    found = text(value)
    try:
        password = urlsplit(found).password
    except ValueError:
        raise Unfit("a path or a URL") from None
    if password is not None:
        raise Unfit(
            "a location without a password",
            hint="project.yaml is committed: leave credentials to the environment or to a credentials file",
        )
    return found


def index(value: Json) -> str:
    """Where packages come from: the host's own settings, nowhere, or a URL."""
    found = location(value)
    if found not in ("inherit", "none") and urlsplit(found).scheme not in ("http", "https"):
        raise Unfit("inherit, none or the https:// URL of an index")
    return found


def module(value: Json) -> str:
    """A module's dotted path."""
    if not isinstance(value, str) or not all(
        part.isidentifier() and not keyword.iskeyword(part) for part in value.split(".")
    ):
        hint = None
        if isinstance(value, str) and value.endswith(".py"):
            hint = f"write it as {value.removesuffix('.py').replace('/', '.')}"
        raise Unfit("a Python module such as workflows.training_pipeline", hint=hint)
    return value


def boolean(value: Json) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


def integer(least: int) -> Reader:
    """A whole number, not below ``least``."""

    def read(value: Json) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise Unfit(f"a whole number, at least {least}")
        return value

    return read


def cpus(value: Json) -> float:
    """A number of CPUs."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise Unfit("a number of CPUs above 0, such as 2 or 1.5")
    return float(value)


def size(least: int) -> Reader:
    """A size in bytes; units are powers of 1024, as in Docker."""

    def read(value: Json) -> int:
        found = -1
        if isinstance(value, int) and not isinstance(value, bool):
            found = value
        elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            found = int(float(match[1]) * _UNITS[match[2].lower()])
        if not least <= found <= MAX_INTEGER:
            raise Unfit(f"a size such as 512m, 8g or 1.5g (or bytes as an integer), at least {least} bytes")
        return found

    return read


def duration(value: Json) -> float:
    """A time in seconds."""
    seconds = 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds <= 0:
        raise Unfit("a duration above 0, such as 90 (seconds), 90s, 15m or 2h")
    return seconds


def gpus(value: Json) -> tuple[str, ...]:
    """Nothing, `all`, `count=N`, or device ids, as the engine port has them."""
    if value == "all":
        return ("all",)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return (f"count={value}",) if value else ()
    if isinstance(value, list):
        ids = [str(item) if type(item) is int and item >= 0 else item for item in value]
        if all(isinstance(item, str) and _GPU.fullmatch(item) for item in ids):
            return tuple(sorted({str(item) for item in ids}))
    raise Unfit("a number of GPUs, all, or a list of device ids")


def names(grammar: re.Pattern[str], example: str) -> Reader:
    """A list of names, sorted, each once."""

    def read(value: Json) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise Unfit(f"a list of names such as [{example}]")
        for number, item in enumerate(value):
            if not isinstance(item, str) or not grammar.fullmatch(item):
                raise Unfit(f"a name such as {example}", at=(number,))
        return tuple(sorted({str(item) for item in value}))

    return read


def env(value: Json) -> tuple[tuple[str, str], ...]:
    """Environment variables, sorted by name."""
    if not isinstance(value, dict):
        raise Unfit("a mapping of names to strings")
    for name, item in value.items():
        if not VARIABLE.fullmatch(name):
            raise Unfit("another name", problem="is not a variable name (letters, digits and _)", at=(name,))
        if name.startswith("MIRAGE_") or name == "LD_PRELOAD":
            raise Unfit(
                "another name", problem="is not for projects to set: the run itself needs it", at=(name,)
            )
        if not isinstance(item, str) or "\0" in item:
            shown = encode(item).decode() if not isinstance(item, str | dict | list) else None
            raise Unfit("a string", hint=f'quote it: "{shown}"' if shown else None, at=(name,))
    return tuple(sorted((name, str(item)) for name, item in value.items()))


def tolerance(value: Json) -> tuple[tuple[str, Slack], ...]:
    """Tolerances by pattern of `KIND:NAME` or `metric:NAME`, sorted."""
    if not isinstance(value, dict):
        raise Unfit('a mapping such as {"model:*": {rtol: 1e-6}}')
    found = {}
    for pattern, item in value.items():
        if not pattern.isprintable() or not ("*" in pattern or ":" in pattern):
            raise Unfit(
                "KIND:NAME, metric:NAME or a pattern of them", problem="fits no output", at=(pattern,)
            )
        if not isinstance(item, dict) or not set(item) <= {*Slack._fields}:
            raise Unfit("a mapping of rtol, atol and ignore", at=(pattern,))
        for name in ("rtol", "atol"):
            number = item.get(name, 0.0)
            if (
                not isinstance(number, int | float)
                or isinstance(number, bool)
                or not 0 <= number < float("inf")
            ):
                raise Unfit("a number, at least 0", at=(pattern, name))
        found[pattern] = Slack(
            float(item.get("rtol", 0.0)),  # type: ignore[arg-type]  # a number, as was seen just now
            float(item.get("atol", 0.0)),  # type: ignore[arg-type]
            _patterns(item.get("ignore", []), pattern),
        )
    return tuple(sorted(found.items()))


def _patterns(value: Json, pattern: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Unfit("a list of regular expressions", at=(pattern, "ignore"))
    for number, each in enumerate(value):
        try:
            if not isinstance(each, str):
                raise Unfit("a regular expression", at=(pattern, "ignore", number))
            re.compile(each)
        except re.error as error:
            raise Unfit(f"a regular expression ({error})", at=(pattern, "ignore", number)) from error
    return tuple(map(str, value))
