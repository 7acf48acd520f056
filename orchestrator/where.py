"""The questions of `mirage ls`: the grammar of `--where`, what it means, and the order of `--sort`.

    expression = term { ("and" | "or") term }      `and` binds closer than `or`
    term       = "not" term | "(" expression ")" | path operator value
    operator   = "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~"
    value      = number | true | false | null | word | 'quoted' | "quoted"

Knows nothing of runs: it asks a ``lookup`` for the value of a path, and gets None where there is none.

- `=` and `==` compare numbers as numbers and strings as strings; `null` equals what is missing.
- `a != b` is `not a == b`, so it holds where `a` is missing; every other comparison with a missing field is false.
- `<` and its like compare two numbers, or two strings by code point (time stamps sort that way).
- `~` is a shell pattern for strings (`branch ~ experiment/*`, the whole of it); for numbers, what rounds to the value
  at the digits given (`metrics.accuracy ~ 0.89` takes 0.885 up to, but not, 0.895).
- A list (inputs, outputs, tags) matches where any of its elements does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase, translate
from typing import NamedTuple, NoReturn, TypeAlias, TypeVar

from orchestrator.canonical import Json, encode
from orchestrator.errors import ConfigError
from orchestrator.yamlschema import resolve

_MAX_LENGTH = 10_000
_MAX_DEPTH = 64
_PATH = re.compile(r"[^\W\d][\w/-]*(?:\.[\w/-]+)*")
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'[^']*'|"[^"]*")|(?P<operator>==|!=|<=|>=|[=<>~])|(?P<bracket>[()])|(?P<word>[^\s()'"=<>!~]+))"""
)
_KEYWORDS = ("and", "or", "not")
_Row = TypeVar("_Row")
_Ordered = TypeVar("_Ordered", str, float)
Lookup: TypeAlias = Callable[[str], Json]


# Named tuples, and no dataclasses: six of those take an eighth of what a whole question may take.
class Value(NamedTuple):
    """What a field is compared with: its text, and the number, boolean or null that an unquoted text means."""

    text: str
    meaning: None | bool | int | float | str


class Comparison(NamedTuple):
    """`path operator value`; the operator is one of == != < <= > >= ~."""

    path: str
    operator: str
    value: Value


class Not(NamedTuple):
    """The opposite of a term."""

    term: Expression


class And(NamedTuple):
    """All of them."""

    terms: tuple[Expression, ...]
    word: str = "and"  # tells it from `or`, which would be an equal tuple


class Or(NamedTuple):
    """Any of them."""

    terms: tuple[Expression, ...]
    word: str = "or"


Expression: TypeAlias = "Comparison | Not | And | Or"


def parse(text: str) -> Expression:
    """Read an expression; raises ConfigError with a caret under the place that cannot be read."""
    if len(text) > _MAX_LENGTH:
        raise ConfigError(f"--where: longer than {_MAX_LENGTH} characters")
    return _Parser(text).whole()


def matches(expression: Expression, lookup: Lookup) -> bool:
    """Whether the fields that ``lookup`` knows satisfy the expression."""
    if isinstance(expression, And):
        return all(matches(term, lookup) for term in expression.terms)
    if isinstance(expression, Or):
        return any(matches(term, lookup) for term in expression.terms)
    if isinstance(expression, Not):
        return not matches(expression.term, lookup)
    found = lookup(expression.path)
    elements = found if isinstance(found, list) else [found]
    if expression.operator == "!=":
        return not any(_compare(element, "==", expression.value) for element in elements)
    return any(_compare(element, expression.operator, expression.value) for element in elements)


def paths(expression: Expression) -> Iterator[str]:
    """The fields that an expression asks for."""
    if isinstance(expression, And | Or):
        for term in expression.terms:
            yield from paths(term)
    elif isinstance(expression, Not):
        yield from paths(expression.term)
    else:
        yield expression.path


def _compare(found: Json, operator: str, value: Value) -> bool:
    meaning = value.meaning
    if isinstance(found, str):
        return fnmatchcase(found, value.text) if operator == "~" else _ordered(found, operator, value.text)
    if found is None or isinstance(found, bool):
        return operator == "==" and meaning is found
    if isinstance(found, int | float) and isinstance(meaning, int | float) and not isinstance(meaning, bool):
        if operator != "~":
            return _ordered(found, operator, meaning)
        from orchestrator import rounding  # fractions take their time to load, and few questions need them

        return rounding.rounds_to(found, value.text, meaning)
    return False


def _ordered(left: _Ordered, operator: str, right: _Ordered) -> bool:
    if operator == "==":
        return left == right
    if operator in ("<", "<="):
        return left < right or (operator == "<=" and left == right)
    return left > right or (operator == ">=" and left == right)


def compares(found: Json, asked: Comparison) -> bool:
    """Whether one value, not a list, satisfies a comparison other than `!=`: what an index judges values by."""
    return _compare(found, asked.operator, asked.value)


def rounding_bounds(value: Value) -> tuple[float, float] | None:
    """Two numbers that hold between them whatever rounds to ``value``; None where it is no number."""
    if isinstance(value.meaning, bool) or not isinstance(value.meaning, int | float):
        return None
    from orchestrator import rounding

    return rounding.bounds(value.text, value.meaning)


class _Parser:
    """A recursive descent over the tokens; ``_at`` is the end of what was taken."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        expression = self._either()
        kind, text = self._peek()
        if kind != "end":
            self._fail("this bracket was never opened" if text == ")" else "expected `and`, `or` or the end")
        return expression

    def _either(self) -> Expression:
        terms = [self._both()]
        while self._take_word("or"):
            terms.append(self._both())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _both(self) -> Expression:
        terms = [self._term()]
        while self._take_word("and"):
            terms.append(self._term())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def _term(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"nested more than {_MAX_DEPTH} levels deep")
        try:
            if self._take_word("not"):
                return Not(self._term())
            if self._peek() == ("bracket", "("):
                self._take()
                inside = self._either()
                if self._peek() != ("bracket", ")"):
                    self._fail("expected `and`, `or` or a closing bracket")
                self._take()
                return inside
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Comparison:
        kind, path = self._peek()
        if kind != "word" or path.lower() in _KEYWORDS or not _PATH.fullmatch(path):
            self._fail("expected a field, such as status or metrics.accuracy")
        self._take()
        kind, operator = self._peek()
        if kind != "operator":
            self._fail(f"expected one of = != < <= > >= ~ after {path}")
        self._take()
        kind, text = self._peek()
        if kind == "quoted":
            value = Value(text[1:-1], text[1:-1])
        elif kind == "word" and text.lower() not in _KEYWORDS:
            value = Value(text, self._meaning(text))
        else:
            self._fail(
                f"expected a value after {operator}", hint="quote a value with spaces, brackets or = < > ! ~"
            )
        if operator == "~":
            self._check_pattern(value.text)
        self._take()
        return Comparison(path, "==" if operator == "=" else operator, value)

    def _meaning(self, text: str) -> None | bool | int | float | str:
        try:
            found = resolve(text)
        except ConfigError as error:
            self._fail(error.message)
        assert not isinstance(found, dict | list)
        return found

    def _check_pattern(self, text: str) -> None:
        try:
            re.compile(translate(text))
        except re.error as error:  # such as [z-a], before Python 3.12
            self._fail(f"not a shell pattern: {error}")

    def _match(self) -> re.Match[str] | None:
        return _TOKEN.match(self._text, self._at)

    def _peek(self) -> tuple[str, str]:
        """The next token's kind and text; ("end", "") behind the last."""
        found = self._match()
        if found is None:
            if self._text[self._at :].strip():
                wrong = self._text[self._at :].lstrip()[0]
                self._fail("this quote is never closed" if wrong in "'\"" else f"{wrong!r} cannot stand here")
            return "end", ""
        assert found.lastgroup is not None
        return found.lastgroup, found[found.lastgroup]

    def _take(self) -> None:
        found = self._match()
        assert found is not None
        self._at = found.end()

    def _take_word(self, keyword: str) -> bool:
        kind, text = self._peek()
        if kind == "word" and text.lower() == keyword:
            self._take()
            return True
        return False

    def _fail(self, problem: str, *, hint: str | None = None) -> NoReturn:
        rest = self._text[self._at :]
        at = self._at + len(rest) - len(rest.lstrip()) if rest.strip() else len(self._text.rstrip())
        start = max(0, at - 60)
        line = "".join(c if c.isprintable() else " " for c in self._text[start : at + 40])
        example = "for example: metrics.accuracy >= 0.89 and status == succeeded"
        raise ConfigError(f"--where: {problem}\n  {line}\n  {' ' * (at - start)}^", hint=hint or example)


class Sort(NamedTuple):
    """`--sort path`, or `--sort -path` for the largest first."""

    path: str
    descending: bool


def parse_sort(text: str) -> Sort:
    """Read what `--sort` was given. Raises ConfigError."""
    path = text.removeprefix("-")
    if not _PATH.fullmatch(path):
        raise ConfigError(
            f"--sort: expected a field, got {text[:80]!r}", hint="for example --sort -metrics.accuracy"
        )
    return Sort(path, text.startswith("-"))


def order(rows: Iterable[_Row], sort: Sort, lookup: Callable[[_Row, str], Json]) -> list[_Row]:
    """The rows in that order; rows without a value come last either way, and equal ones keep their order."""
    found = [(row, lookup(row, sort.path)) for row in rows]
    present = [(row, _rank(value)) for row, value in found if value is not None]
    present.sort(key=lambda pair: pair[1], reverse=sort.descending)
    return [row for row, _ in present] + [row for row, value in found if value is None]


def _rank(value: Json) -> tuple[int, float, str]:
    """Numbers before strings before the rest."""
    if isinstance(value, int | float):
        return 0, value, ""
    return (1, 0, value) if isinstance(value, str) else (2, 0, encode(value).decode())
