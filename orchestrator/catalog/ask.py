"""What the index answers: which runs satisfy an expression, in which order, and what is told of them.

The meaning of an expression is where.py's; here each comparison becomes ranges of the facts' order, and `and`, `or`,
`not` become sets of run numbers. Where ranges cannot say it (a pattern, digits that round, a path that counts into a
list) where.py judges the values that come near, or the documents. All answers are those of ``where.matches``.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from orchestrator import where
from orchestrator.canonical import Json
from orchestrator.catalog import facts
from orchestrator.catalog.fields import look_up
from orchestrator.catalog.index import Index
from orchestrator.catalog.number import id_of
from orchestrator.reference import RunId
from orchestrator.where import And, Comparison, Expression, Not, Or, Sort

_BELOW = {"<": "<", "<=": "<="}
_ABOVE = {">": ">", ">=": ">="}
_EARLY = 256  # of the newest runs that are judged before sets are made
_AT_ONCE = 64  # rows by number in one statement; few, so that who stops early has not read many
_MAGIC = re.compile(r"[*?\[]")


class Indexed:
    """A sealed run as the index has it; what it says is parsed when asked."""

    def __init__(self, run_id: RunId, summary_text: str, config_text: str) -> None:
        self.run_id = run_id
        self._summary_text = summary_text
        self._config_text = config_text
        self._parsed: dict[str, Any] = {}

    def summary(self) -> dict[str, Json]:
        """The run in one flat object, as ``Row.summary``."""
        if "summary" not in self._parsed:
            self._parsed["summary"] = json.loads(self._summary_text)
        found: dict[str, Json] = self._parsed["summary"]
        return found

    def config(self) -> dict[str, Json]:
        """The resolved config."""
        if "config" not in self._parsed:
            self._parsed["config"] = json.loads(self._config_text)
        found: dict[str, Json] = self._parsed["config"]
        return found

    def lookup(self, path: str) -> Json:
        """A field of `--where`, as ``Row.lookup``."""
        return look_up(path, self.summary, self.config)


def select(
    index: Index, expression: Expression | None, sort: Sort | None, limit: int | None
) -> list[Indexed]:
    """The runs that satisfy the expression: the first ``limit`` of them in the order, newest first without one."""
    asker = _Asker(index)
    if sort is None:
        return asker.documents(asker.newest(expression, limit))
    found = None if expression is None else asker.runs(expression)
    if facts.is_direct(sort.path) and asker.path(sort.path)[1] == facts.PLAIN:
        return asker.documents(asker.sorted(found, sort, limit))
    wanted = heapq.nlargest(len(found), found) if found is not None else asker.newest(None, None)
    rows = asker.documents(wanted)
    return where.order(rows, sort, lambda row, path: row.lookup(path))[:limit]


def has_path(index: Index, path: str) -> bool:
    """Whether some run has, or had, a value there; True where that cannot be told."""
    return not facts.is_direct(path) or _Asker(index).path(path)[0] >= 0


def path_names(index: Index) -> list[str]:
    """Every path that some run has a value of, for "did you mean"."""
    return [name for (name,) in index.sql.execute("SELECT name FROM paths ORDER BY name")]


def runs_with(index: Index, path: str, value: str) -> list[RunId]:
    """The runs whose field, or an element of it, is this string; oldest first."""
    rows = index.sql.execute(
        "SELECT run FROM facts JOIN paths ON paths.id = path WHERE name = ? AND value = ? ORDER BY run",
        (path, value),
    )
    return [id_of(number) for (number,) in rows]


def newest_values(index: Index, path: str, limit: int) -> list[tuple[str, RunId]]:
    """The different strings of a field, each with its oldest run; those of the newest runs first."""
    rows = index.sql.execute(
        "SELECT value, min(run), max(run) AS last FROM facts JOIN paths ON paths.id = path "
        "WHERE name = ? AND typeof(value) = 'text' GROUP BY value ORDER BY last DESC LIMIT ?",
        (path, limit),
    )
    return [(value, id_of(first)) for value, first, _ in rows]


class _Asker:
    """One question's view of the index; remembers what it looked up."""

    def __init__(self, index: Index) -> None:
        self._sql = index.sql
        self._paths: dict[str, tuple[int, int]] = {}
        self._everything: set[int] | None = None

    def path(self, name: str) -> tuple[int, int]:
        """A path's number (-1: no run has it) and what it is like."""
        if name not in self._paths:
            found = self._sql.execute("SELECT id, kind FROM paths WHERE name = ?", (name,)).fetchone()
            self._paths[name] = found or (-1, facts.PLAIN)
        return self._paths[name]

    def newest(self, expression: Expression | None, limit: int | None) -> list[int]:
        """The runs that satisfy it, newest first."""
        most = -1 if limit is None else limit
        if expression is None:
            rows = self._sql.execute("SELECT run FROM runs ORDER BY run DESC LIMIT ?", (most,))
            return [number for (number,) in rows]
        if isinstance(expression, Comparison) and self._is_ranges(expression):
            found: set[int] = set()
            for words, values in self._ranges(expression):
                found |= self._query(f"{words} ORDER BY run DESC LIMIT ?", (*values, most))
        else:
            if limit is not None:
                early = self._early(expression, limit)
                if len(early) == limit:
                    return early
            found = self.runs(expression)
        return heapq.nlargest(len(found) if limit is None else limit, found)

    def _early(self, expression: Expression, limit: int) -> list[int]:
        """The first answers among the newest runs, judged one by one: mostly all that a limit asks for."""
        first = expression.terms[0] if isinstance(expression, And) else None
        if isinstance(first, Comparison) and self._is_ranges(first):
            rows = self._rows_of(self.newest(first, _EARLY))
        else:
            rows = self._rows(
                "SELECT run, summary, config FROM documents ORDER BY run DESC LIMIT ?", (_EARLY,)
            )
        fitting = (number for number, row in rows if where.matches(expression, row.lookup))
        return list(islice(fitting, limit))

    def runs(self, expression: Expression) -> set[int]:
        """The runs that satisfy an expression."""
        if isinstance(expression, And):
            found = self.runs(expression.terms[0])
            for term in expression.terms[1:]:
                if not found:
                    return found
                found = found & self.runs(term)
            return found
        if isinstance(expression, Or):
            return set().union(*map(self.runs, expression.terms))
        if isinstance(expression, Not):
            return self._all() - self.runs(expression.term)
        if expression.operator == "!=":
            return self._all() - self.runs(Comparison(expression.path, "==", expression.value))
        if not facts.is_direct(expression.path) or self.path(expression.path)[1] == facts.PARTIAL:
            return self._judged(expression)
        if expression.operator == "~":
            return self._near(expression)
        found = set()
        for words, values in self._ranges(expression):
            found |= self._query(words, values)
        if expression.operator == "==" and expression.value.meaning is None:
            found |= self._all() - self._query("path = ?", (self.path(expression.path)[0],))
        return found

    def _is_ranges(self, asked: Comparison) -> bool:
        """Whether a comparison is its ranges and nothing else."""
        if not facts.is_direct(asked.path) or self.path(asked.path)[1] == facts.PARTIAL:
            return False
        return asked.operator not in ("~", "!=") and not (
            asked.operator == "==" and asked.value.meaning is None
        )

    def _ranges(self, asked: Comparison) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The ranges of facts, as SQL and values, that satisfy a comparison: strings, then what the value means."""
        path, meaning, operator = self.path(asked.path)[0], asked.value.meaning, asked.operator
        number = isinstance(meaning, int | float) and not isinstance(meaning, bool)
        if operator == "==":
            yield "path = ? AND value = ?", (path, asked.value.text)
            if number:
                yield "path = ? AND value = ?", (path, meaning)
            elif isinstance(meaning, bool):
                yield "path = ? AND value = ?", (path, facts.TRUE if meaning else facts.FALSE)
            elif meaning is None:
                yield "path = ? AND value = ?", (path, facts.NOTHING)
        elif operator in _BELOW:
            yield f"path = ? AND value >= '' AND value {operator} ?", (path, asked.value.text)
            if number:
                yield f"path = ? AND value {operator} ?", (path, meaning)
        else:
            yield f"path = ? AND value {operator} ? AND value < x''", (path, asked.value.text)
            if number:
                yield f"path = ? AND value {operator} ? AND value < ''", (path, meaning)

    def _query(self, words: str, values: tuple[Any, ...]) -> set[int]:
        rows = self._sql.execute(f"SELECT run FROM facts WHERE {words}", values)
        return {number for (number,) in rows}

    def _near(self, asked: Comparison) -> set[int]:
        """`~`: the values that come near, each judged once by where.py."""
        path, text = self.path(asked.path)[0], asked.value.text
        start = _MAGIC.split(text, maxsplit=1)[0]
        found = self._judge(
            asked,
            "path = ? AND value >= ? AND value < x''",
            (path, start),
            lambda value: not value.startswith(start),
        )
        bounds = where.rounding_bounds(asked.value)
        if bounds is not None:
            low, high = (math.nextafter(bounds[0], -math.inf), math.nextafter(bounds[1], math.inf))
            found |= self._judge(asked, "path = ? AND value >= ? AND value <= ?", (path, low, high), None)
        return found

    def _judge(
        self,
        asked: Comparison,
        words: str,
        values: tuple[Any, ...],
        beyond: Callable[[str], bool] | None,
    ) -> set[int]:
        found: set[int] = set()
        last: Any = None
        fits = False
        rows = self._sql.execute(f"SELECT value, run FROM facts WHERE {words} ORDER BY value", values)
        for value, number in rows:
            if value != last or type(value) is not type(last):
                if beyond is not None and beyond(value):
                    break
                last, fits = value, where.compares(value, asked)
            if fits:
                found.add(number)
        return found

    def _judged(self, asked: Comparison) -> set[int]:
        """The runs whose documents satisfy a comparison that the facts cannot answer."""
        return {
            number
            for number, row in self._rows("SELECT run, summary, config FROM documents", ())
            if where.matches(asked, row.lookup)
        }

    def sorted(self, among: set[int] | None, sort: Sort, limit: int | None) -> list[int]:
        """The runs in the order of a plain path; those without a value last, newest first."""
        found: list[int] = []
        most = math.inf if limit is None else limit
        direction = "DESC" if sort.descending else "ASC"
        rows = self._sql.execute(
            f"SELECT run FROM facts WHERE path = ? ORDER BY value {direction}, run DESC",
            (self.path(sort.path)[0],),
        )
        for (number,) in rows:
            if len(found) >= most:
                return found
            if among is None or number in among:
                found.append(number)
        present = set(found)
        for number in self.newest(None, None) if among is None else heapq.nlargest(len(among), among):
            if len(found) >= most:
                break
            if number not in present:
                found.append(number)
        return found

    def documents(self, numbers: Iterable[int]) -> list[Indexed]:
        """The runs with these numbers, in their order; one that went meanwhile is left out."""
        return [row for _, row in self._rows_of(list(numbers))]

    def _rows_of(self, numbers: list[int]) -> Iterator[tuple[int, Indexed]]:
        for at in range(0, len(numbers), _AT_ONCE):
            piece = numbers[at : at + _AT_ONCE]
            marks = ",".join("?" * len(piece))
            words = f"SELECT run, summary, config FROM documents WHERE run IN ({marks})"
            found = dict(self._rows(words, piece))
            yield from ((number, found[number]) for number in piece if number in found)

    def _rows(self, words: str, values: Any) -> Iterator[tuple[int, Indexed]]:
        for number, summary, config in self._sql.execute(words, values):
            yield number, Indexed(id_of(number), summary, config)

    def _all(self) -> set[int]:
        if self._everything is None:
            self._everything = set(self.newest(None, None))
        return self._everything
