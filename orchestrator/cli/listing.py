"""`mirage ls`: the runs of the store through the index, and the open ones of this project, as a table, JSON or CSV.

Without click, which takes longer to load than the question to answer: see plain_options.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.terminal import exact_for_programs, harmless, print_json, print_table
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.catalog.ask import Indexed
    from orchestrator.reference import RunId
    from orchestrator.where import Expression, Sort

_CSV = ("run_id", "status", "started", "seconds", "config", "branch", "commit", "dirty", "tags")
# Of every record, with a value or not: no reason to doubt the spelling.
_KNOWN = (
    "run_id",
    "status",
    "exit_code",
    "reason",
    "user",
    "branch",
    "inputs",
    "outputs",
    "overrides",
    "tags",
    "notes",
)


def list_runs(
    where: str | None,
    branch: str | None,
    sort: str | None,
    limit: int | None,
    columns: str | None,
    rebuild: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Print what `mirage ls` was asked for. Raises ConfigError for what cannot be read, StoreError."""
    from orchestrator import where as grammar
    from orchestrator.where import And, Comparison, Value

    if as_csv and as_json:
        raise ConfigError("--csv and --json are two answers", hint="leave one out")
    expression = None if where is None else grammar.parse(where)
    order = None if sort is None else grammar.parse_sort(sort)
    wanted = None if columns is None else _columns(columns)
    if branch is not None:
        own = Comparison("branch", "~", Value(branch, branch))
        expression = own if expression is None else And((own, expression))
    place = Workplace.here()
    if rebuild and _has_store(place):
        place.catalog.rebuild()
    lines = _lines(place, expression, order, limit)
    _warn_of_unknown(place, expression, order, wanted or (), lines)
    if as_json:
        later = committed_as(place, [line.summary() for line in lines])
        print_json({"runs": [_object(line, wanted, later) for line in lines]})
    elif as_csv:
        _print_csv(lines, wanted)
    elif not lines:
        print("no runs" if expression is None else "no such runs", file=sys.stderr)
    else:
        if wanted is not None:
            print_table(wanted, [[_cell(line.lookup(path)) for path in wanted] for line in lines])
        else:
            _print_table(place, lines)
        _say_unfinished(lines)


def _columns(text: str) -> tuple[str, ...]:
    from orchestrator import where as grammar

    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        try:
            if name.startswith("-"):
                raise ConfigError("")
            grammar.parse_sort(name)
        except ConfigError:
            raise ConfigError(
                f"--columns: expected fields with commas between, got {name[:80]!r}",
                hint="for example --columns run_id,metrics.accuracy,config.training.lr",
            ) from None
    return names


class Line:
    """A run in the list: sealed, as the index has it, or open, with little to say of it yet."""

    def __init__(self, row: Indexed | None, run_id: RunId, status: str) -> None:
        self._row = row
        self.run_id = run_id
        self._open: dict[str, Json] = {"run_id": run_id, "status": status}

    def summary(self) -> dict[str, Json]:
        """What `--json` prints of it."""
        return self._open if self._row is None else self._row.summary()

    def lookup(self, path: str) -> Json:
        """A field of `--where` and `--sort`."""
        return self._open.get(path) if self._row is None else self._row.lookup(path)


def _lines(
    place: Workplace, expression: Expression | None, order: Sort | None, limit: int | None
) -> list[Line]:
    from orchestrator import where as grammar

    if not _has_store(place):
        return []
    opened = [Line(None, run_id, status) for run_id, status in place.catalog.without_record()]
    # One more for each open run: where it is sealed this moment, it is shown as open, once.
    most = None if limit is None else limit + len(opened)
    ids = {line.run_id for line in opened}
    sealed = [
        Line(row, row.run_id, "")
        for row in place.catalog.select(expression, order, most)
        if row.run_id not in ids
    ]
    lines = [
        line for line in opened if expression is None or grammar.matches(expression, line.lookup)
    ] + sealed
    if order is not None:
        lines = grammar.order(lines, order, lambda line, path: line.lookup(path))
    return lines[:limit]


def _has_store(place: Workplace) -> bool:
    """Whether there is anything to list: a question makes no store."""
    scheme, separator, rest = place.store_name.partition("://")
    if separator and scheme != "file":
        return True
    folder = Path(rest) if separator else place.folder / Path(place.store_name).expanduser()
    return (folder / "store.json").exists()


def _warn_of_unknown(
    place: Workplace,
    expression: Expression | None,
    order: Sort | None,
    columns: Sequence[str],
    lines: Sequence[Line],
) -> None:
    """Fields that no run has a value of are most often misspelt."""
    from orchestrator import where as grammar

    asked = {*columns} | (set() if expression is None else set(grammar.paths(expression)))
    asked |= set() if order is None else {order.path}
    asked -= {*_KNOWN, "metrics"}
    if not asked or not _has_store(place):
        return
    from orchestrator.catalog import ask

    unknown = place.catalog.asking(
        lambda index: [each for each in sorted(asked) if not ask.has_path(index, each)]
    )
    unknown = [path for path in unknown if all(line.lookup(path) is None for line in lines)]
    if not unknown:
        return
    names = place.catalog.asking(ask.path_names)
    if not names:
        return
    for path in unknown:
        tails = sorted((n for n in names if n.endswith(f".{path}")), key=lambda n: n[0] != "m")[:3]
        hint = f"did you mean {' or '.join(tails)}?" if tails else did_you_mean(path, names)
        print(
            harmless(f"warning: no run has a value of {path}{f' ({hint})' if hint else ''}"), file=sys.stderr
        )


def committed_as(place: Workplace, runs: Sequence[dict[str, Json]]) -> dict[str, str]:
    """By run id, the commit that holds the same project as a snapshot of uncommitted work did."""
    dirty = [run for run in runs if run.get("dirty") is True and run.get("tree")]
    if not dirty:
        return {}
    from orchestrator.errors import SourceError
    from orchestrator.source import history
    from orchestrator.source.checkout import locate

    try:
        folder = place.folder
        found = history.commits_with_trees(folder, locate(folder).prefix, {str(run["tree"]) for run in dirty})
    except SourceError:
        return {}  # not in a repository just now: nothing to add
    return {str(run["run_id"]): found[str(run["tree"])] for run in dirty if str(run["tree"]) in found}


def _object(line: Line, wanted: Sequence[str] | None, later: dict[str, str]) -> dict[str, Json]:
    if wanted is not None:
        return {path: line.lookup(path) for path in wanted}
    told = dict(line.summary())
    return {**told, "committed_as": later[line.run_id]} if line.run_id in later else told


def _print_csv(lines: Sequence[Line], wanted: Sequence[str] | None) -> None:
    import csv

    if wanted is None:
        names: dict[str, None] = {}
        for line in lines:
            metrics = line.lookup("metrics")
            names.update(dict.fromkeys(metrics if isinstance(metrics, dict) else ()))
        wanted = (*_CSV, *(f"metrics.{name}" for name in sorted(names)))
    exact_for_programs()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(wanted)
    for line in lines:
        writer.writerow([_cell(line.lookup(path), empty="", exact=True) for path in wanted])


def _print_table(place: Workplace, lines: Sequence[Line]) -> None:
    from orchestrator.catalog.fields import local_time

    later = committed_as(place, [line.summary() for line in lines])
    signers = _signers(place, {str(line.lookup("signer")) for line in lines if line.lookup("signer")})
    rows = []
    for line in lines:
        told = line.summary()
        metrics, tags, started = told.get("metrics"), told.get("tags"), told.get("started")
        shown = [f"{k}={number(v)}" for k, v in metrics.items()] if isinstance(metrics, dict) else []
        commit = str(told.get("commit") or "-")[:10] + ("+" if told.get("dirty") else "")
        cells = {
            "run": str(told["run_id"]),
            "started": local_time(str(started)) if started else "-",
            "status": str(told["status"]),
            "user": str(told.get("user") or "-"),
            "config": str(told.get("config") or "-"),
            "branch": str(told.get("branch") or "-"),
            "commit": later[line.run_id][:10] if line.run_id in later else commit,
            "tags": " ".join(map(str, tags)) if isinstance(tags, list) and tags else "-",
            "verdict": _verdict(told),
            "signer": signers.get(str(told.get("signer")), "-"),
            "metrics": " ".join(shown) or "-",
        }
        rows.append({name: plain(cell) for name, cell in cells.items()})
    # A column that says nothing of any run takes no room.
    told_of_few = ("user", "tags", "verdict", "signer")
    names = [name for name in rows[0] if name not in told_of_few or any(row[name] != "-" for row in rows)]
    print_table(names, [[row[name] for name in names] for row in rows])


def _say_unfinished(lines: Sequence[Line]) -> None:
    """One line for whoever reads it on a terminal or in a log: runs that nobody follows, and the command for them."""
    dead = [line.run_id for line in lines if line.lookup("status") == "unfinished"]
    if not dead:
        return
    which = f"{dead[0]} is" if len(dead) == 1 else f"{len(dead)} runs are"
    sys.stdout.flush()  # the table first
    print(
        f"{which} unfinished: the process that followed {'it' if len(dead) == 1 else 'them'} is dead "
        "-> `mirage recover` follows what still runs, and records what has ended or is lost",
        file=sys.stderr,
    )


def _signers(place: Workplace, keyids: set[str]) -> dict[str, str]:
    """The names of keys that records say they are signed with; of one that is not trusted here, its beginning."""
    if not keyids:
        return {}
    from orchestrator.trust import trusted

    trust = trusted.load(place.project.folder)
    return {keyid: trust.name_of(keyid) or f"{keyid[:13]}?" for keyid in keyids}


def _verdict(told: dict[str, Json]) -> str:
    """What came of making it again, or which run it made again."""
    if told.get("reproduces"):
        return f"of {told['reproduces']}"
    return str(told.get("verdict") or "-").lower()


def number(value: Json) -> str:
    """A metric for people: six digits."""
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def plain(text: str) -> str:
    """Text of a record or a note, without what would move a terminal's cursor."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def _cell(value: Json, *, empty: str = "-", exact: bool = False) -> str:
    if value is None or value == []:
        return empty
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return plain(" ".join(map(str, value)))
    if isinstance(value, str):
        return value if exact else plain(value)
    if isinstance(value, int | float):
        return json.dumps(value) if exact else number(value)
    return json.dumps(value, ensure_ascii=False)
