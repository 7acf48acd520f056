"""Forms: what a JSON value must be, put together from small checks; each gives the faults that it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A field that is not as the form has it."""

    path: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.got}"


Form = Callable[[Any, str], Iterator[Fault]]


def fault(path: str, expected: str, value: Any) -> Fault:
    """A fault with the value as it is found."""
    text = repr(value)
    return Fault(path or "the record", expected, text if len(text) < 80 else text[:77] + "...")


def text(grammar: str = r"(?s).*", what: str = "text") -> Form:
    """A string that fits a grammar as a whole."""
    pattern = re.compile(grammar)

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            yield fault(path, what, value)

    return check


def number(least: float = 0, *, whole: bool = False) -> Form:
    """A number; ``whole``: an integer."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value < least:
            yield fault(path, f"a{'n integer' if whole else ' number'} of at least {least}", value)

    return check


def boolean(value: Any, path: str) -> Iterator[Fault]:
    """True or false."""
    if not isinstance(value, bool):
        yield fault(path, "true or false", value)


def one_of(*words: Any) -> Form:
    """One of some values."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not any(type(value) is type(word) and value == word for word in words):
            yield fault(path, " or ".join(map(repr, words)), value)

    return check


def optional(form: Form) -> Form:
    """The form, or null."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if value is not None:
            yield from form(value, path)

    return check


def many(form: Form) -> Form:
    """A list."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield fault(path, "a list", value)
            return
        for at, item in enumerate(value):
            yield from form(item, f"{path}[{at}]")

    return check


def pairs(form: Form) -> Form:
    """An object with names of the user's own."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield fault(path, "an object", value)
            return
        for name, item in value.items():
            yield from form(item, f"{path}.{name}")

    return check


def fields(known: Mapping[str, Form], *, absent: tuple[str, ...] = ()) -> Form:
    """An object with exactly these fields; those in ``absent`` may be left out."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield fault(path, "an object", value)
            return
        dot = f"{path}." if path else ""
        for name in value:
            if name not in known:
                yield Fault(f"{dot}{name}", "no such field", "one")
        for name, form in known.items():
            if name in value:
                yield from form(value[name], f"{dot}{name}")
            elif name not in absent:
                yield Fault(f"{dot}{name}", "a value", "nothing")

    return check
