"""The questions about runs: `mirage ls`, `mirage show`, `mirage logs`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.terminal import print_json, print_table, readable_size
from orchestrator.cli.wiring import Workplace

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.canonical import Json
    from orchestrator.catalog import Catalog, Row
    from orchestrator.reference import RunId

_HELP = {"help_option_names": ["-h", "--help"]}
_CHUNK = 1 << 20


@click.command(context_settings=_HELP)
@click.option("--where", metavar="EXPR", help="Only runs that satisfy it: 'metrics.accuracy >= 0.89'.")
@click.option("--branch", metavar="PATTERN", help="Only runs of these branches: 'experiment/*'.")
@click.option("--sort", metavar="[-]FIELD", help="Order by a field; - for the largest first.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ls(where: str | None, branch: str | None, sort: str | None, limit: int | None, as_json: bool) -> None:
    """List runs, newest first.

    Fields: run_id, status, workflow, config, branch, commit, started, seconds, inputs, outputs, metrics.NAME,
    config.A.B and what else `mirage ls --json` prints.
    """
    from orchestrator import where as grammar
    from orchestrator.where import And, Comparison, Value

    expression = None if where is None else grammar.parse(where)
    order = None if sort is None else grammar.parse_sort(sort)
    if branch is not None:
        own = Comparison("branch", "~", Value(branch, branch))
        expression = own if expression is None else And((own, expression))
    rows: list[_Line] = []
    unknown = set() if expression is None else set(grammar.paths(expression))
    if order is not None:
        unknown.add(order.path)
    for line in _lines(Workplace.here().catalog):
        unknown = {path for path in unknown if line.lookup(path) is None}
        if expression is None or grammar.matches(expression, line.lookup):
            rows.append(line)
            if order is None and len(rows) == limit:
                break
    if order is not None:
        rows = grammar.order(rows, order, lambda line, path: line.lookup(path))[:limit]
    for path in sorted(unknown):
        hint = f" (did you mean metrics.{path} or config.{path}?)" if "." not in path else ""
        print(f"warning: no run that was looked at has a value of {path}{hint}", file=sys.stderr)
    if as_json:
        print_json({"runs": [line.summary() for line in rows]})
    elif rows:
        print_table(
            ("run", "started", "status", "config", "branch", "commit", "metrics"), [_cells(r) for r in rows]
        )
    else:
        print("no runs" if expression is None else "no such runs", file=sys.stderr)


class _Line:
    """A run in the list: sealed, with a record, or open, with little to say of it yet."""

    def __init__(self, row: Row | None, run_id: RunId, status: str) -> None:
        self._row = row
        self._open: dict[str, Json] = {"run_id": run_id, "status": status}

    def summary(self) -> dict[str, Json]:
        """What `--json` prints of it."""
        return self._open if self._row is None else self._row.summary()

    def lookup(self, path: str) -> Json:
        """A field of `--where` and `--sort`."""
        return self._open.get(path) if self._row is None else self._row.lookup(path)


def _lines(catalog: Catalog) -> Any:
    sealed: set[str] = set()
    opened = list(catalog.open_runs())
    for run_id, status in opened:
        yield _Line(None, run_id, status)
        sealed.add(run_id)
    for row in catalog.rows():
        if row.run_id not in sealed:
            yield _Line(row, row.run_id, "")


def _cells(line: _Line) -> tuple[str, ...]:
    from orchestrator.catalog import local_time

    told = line.summary()
    metrics = told.get("metrics")
    shown = (
        [f"{name}={_number(value)}" for name, value in metrics.items()] if isinstance(metrics, dict) else []
    )
    started, commit = told.get("started"), str(told.get("commit") or "-")
    return (
        str(told["run_id"]),
        local_time(str(started)) if started else "-",
        str(told["status"]),
        str(told.get("config") or "-"),
        str(told.get("branch") or "-"),
        commit[:10] + ("+" if told.get("dirty") else ""),
        " ".join(shown) or "-",
    )


def _number(value: Json) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--json", "as_json", is_flag=True, help="Print summary, result, config and record as one object."
)
def show(run_id: str, as_json: bool) -> None:
    """Show one run: RUN is an id, the beginning of one, or `latest`."""
    row = Workplace.here().catalog.find(run_id)
    if as_json:
        print_json(
            {**row.summary(), "result": row.result, "config_values": row.config, "statement": row.statement}
        )
        return
    _show(row)


def _show(row: Row) -> None:
    from orchestrator.catalog import local_time

    told, details = row.summary(), row.details
    reason = f" ({told['reason']})" if told["reason"] else ""
    snapshot = ", a snapshot of uncommitted work" if told["dirty"] else ""
    source = row.dependency("source")
    base = row.dependency("base-image")
    lines: list[tuple[str, str]] = [
        ("status", f"{told['status']}{reason}"),
        ("started", f"{local_time(str(told['started']))}, took {told['seconds']} s"),
        ("project", f"{told['project']} ({source.get('uri', '')})"),
        ("commit", f"{told['commit']} on {told['branch'] or 'no branch'}{snapshot}"),
        ("tree", str(told["tree"])),
        ("config", f"{told['config']} {told['config_digest']}"),
        ("set", " ".join(str(each) for each in told["overrides"] or ()) or "-"),  # type: ignore[union-attr]
        ("workflow", " ".join(row.definition["externalParameters"]["entrypoint"])),
        ("lock", f"{row.dependency('lock').get('uri', '').rpartition('#')[2]} {told['lock']}"),
        ("base", f"{base.get('annotations', {}).get('name', '')} {told['base']}"),
        ("image", str(told["image"])),
        ("run key", str(told["run_key"])),
        ("builder", str(details["builder"]["id"])),
        ("record", str(told["record"])),
    ]
    print(f"run {row.run_id}")
    for name, value in lines:
        print(f"  {name:<9}{value}")
    for title, items in (("inputs", _inputs(row)), ("outputs", _outputs(row)), ("metrics", _metrics(row))):
        print(f"  {title}" if items else f"  {title:<9}-")
        for item in items:
            print(f"    {item}")
    for problem in row.result.get("unpublished", []):
        print(f"  not published: {problem}")


def _inputs(row: Row) -> list[str]:
    return [
        f"{item['annotations']['id']}  sha256:{item['digest']['sha256']}"
        for item in row.definition["resolvedDependencies"]
        if item["name"].startswith("input:")
    ]


def _outputs(row: Row) -> list[str]:
    return [
        f"{o['id']}  {o['digest']}  {readable_size(o['size'])}, {o['format']}" for o in row.result["outputs"]
    ]


def _metrics(row: Row) -> list[str]:
    return [f"{name} = {_number(value)}" for name, value in row.result["metrics"].items()]


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on while the run goes on.")
@click.option("--json", "as_json", is_flag=True, help="Print the log with its digest as one object.")
def logs(run_id: str, follow: bool, as_json: bool) -> None:
    """Print a run's output, stdout and stderr as they came.

    RUN is an id, the beginning of one, or `latest`; a run that is not finished is found too.
    """
    place = Workplace.here()
    opened = [each for each in place.folders.unfinished() if each.startswith(run_id)]
    if run_id == "latest" and place.folders.unfinished():
        opened = place.folders.unfinished()[-1:]
    if len(opened) == 1 and not as_json:
        _print_open(place, opened[0], follow)
        return
    row = place.catalog.find(run_id)
    digest = row.byproduct("log")
    if as_json:
        data = b"".join(_read(place, digest)) if digest else b""
        print_json({"run_id": row.run_id, "digest": digest, "text": data.decode("utf-8", "replace")})
        return
    if digest is not None:
        for piece in _read(place, digest):
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()


def _read(place: Workplace, digest: Any) -> Any:
    """A blob's bytes, verified before the first of them is given."""
    from orchestrator.artifacts.version import verify_blob
    from orchestrator.errors import StoreError

    if not verify_blob(place.store, digest):
        raise StoreError(f"the log {digest} is missing or damaged in the store {place.store.location}")
    with place.store.open(digest) as source:
        while piece := source.read(_CHUNK):
            yield piece


def _print_open(place: Workplace, run_id: RunId, follow: bool) -> None:
    """The spool of a run that goes on, from its beginning; with ``follow`` until it is sealed."""
    log: Path = place.folders.of(run_id) / "log"
    at = 0
    while True:
        alive = run_id in place.folders.unfinished()
        if log.exists():
            with log.open("rb") as source:
                source.seek(at)
                while piece := source.read(_CHUNK):
                    at += len(piece)
                    sys.stdout.buffer.write(piece)
                sys.stdout.flush()
        if not follow or not alive:
            return
        time.sleep(0.1)
