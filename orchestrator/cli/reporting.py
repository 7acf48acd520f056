"""`mirage report`: runs as one page to read, send and print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.listing import committed_as
from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.catalog.index import Index
    from orchestrator.questions.lineage import Graph

_HELP = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_HELP)
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The file to write; one that is there is replaced.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the file, its size and the runs as one JSON object."
)
def report(run_ids: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Write a report of one or more runs: one HTML file that needs no network.

    Each RUN is an id, the beginning of one, or `latest`. With several, they are compared.
    """
    from orchestrator.report import account, page

    place = Workplace.here()
    rows = {row.run_id: row for row in map(place.catalog.find, run_ids)}
    if len(rows) > page.MOST_RUNS:
        raise ConfigError(
            f"a report takes at most {page.MOST_RUNS} runs, got {len(rows)}",
            hint="`mirage ls --csv` has the numbers of any number of runs",
        )
    later = committed_as(place, [row.recorded() for row in rows.values()])
    runs = account.gather([*rows.values()], _Lineage(place), later)
    data = page.render(runs)
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be written: {error.strerror}", hint="give another --output"
        ) from error
    if as_json:
        print_json({"path": str(output), "size": len(data), "runs": [*rows]})
    else:
        print(output)


class _Lineage:
    """Where a run comes from, by the records of the store."""

    def __init__(self, place: Workplace) -> None:
        from orchestrator.questions.lineage import finder

        self._place = place
        self._row = finder(place.catalog.find)

    def __call__(self, run_id: str) -> Graph:
        from orchestrator.catalog import ask
        from orchestrator.questions.lineage import Walk

        def walk(index: Index) -> Graph:
            known = Walk(
                self._place.store,
                self._row,
                lambda id: ask.runs_with(index, "inputs", id),
                lambda run: ask.runs_with(index, "retry_of", run),
            )
            return known.around(run_id, up=True, down=False)

        return self._place.catalog.asking(walk)
