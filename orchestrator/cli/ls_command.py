"""`mirage ls` for click: its options and its help."""

from __future__ import annotations

import click

from orchestrator.cli.listing import list_runs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--where", metavar="EXPR", help="Only runs that satisfy it: 'metrics.accuracy >= 0.89'.")
@click.option("--branch", metavar="PATTERN", help="Only runs of these branches: 'experiment/*'.")
@click.option("--sort", metavar="[-]FIELD", help="Order by a field; - for the largest first.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N runs.")
@click.option("--columns", metavar="A,B,...", help="Show these fields: run_id,metrics.accuracy,config.lr.")
@click.option("--rebuild", is_flag=True, help="Make the index of the runs anew first.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with a line of names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ls(
    where: str | None,
    branch: str | None,
    sort: str | None,
    limit: int | None,
    columns: str | None,
    rebuild: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List runs, newest first.

    Fields: run_id, status, workflow, config, branch, commit, user, started, seconds, inputs, outputs, tags,
    notes, metrics.NAME, config.A.B and what else `mirage ls --json` prints.
    """
    list_runs(where, branch, sort, limit, columns, rebuild, as_csv, as_json)
