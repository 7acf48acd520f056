"""`mirage export`: runs in the words of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.exports.subject import Subject

_HELP = {"help_option_names": ["-h", "--help"]}
# Each with the path that it is written to without -o; RUN is the id of the first run.
_FORMATS = {
    "ro-crate": "RUN.crate",
    "cyclonedx": "RUN.cdx.json",
    "openlineage": "RUN.openlineage.jsonl",
    "mlflow": "mlruns",
    "record": "RUN.intoto.json",
}
_OF_MANY = ("openlineage", "mlflow")


@click.command(context_settings=_HELP)
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--format", "format_", type=click.Choice([*_FORMATS]), required=True, help="What to write.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to; never over something that exists."
)
@click.option(
    "--without-outputs", is_flag=True, help="ro-crate, mlflow: name the outputs, and leave their files out."
)
@click.option(
    "--license", metavar="URL", help="ro-crate: the address of the license that the run is published under."
)
@click.option("--json", "as_json", is_flag=True, help="Print the path and the runs as one JSON object.")
def export(
    run_ids: tuple[str, ...],
    format_: str,
    output: Path | None,
    without_outputs: bool,
    license: str | None,
    as_json: bool,
) -> None:
    """Write runs for other tools; several runs for openlineage and mlflow.

    ro-crate: a Process Run Crate, a folder or, where -o ends in .zip, a file. cyclonedx: what is in the image.
    openlineage: events for a catalogue. mlflow: a tracking folder. record: the record as it lies in the store.
    """
    from orchestrator.exports import subject

    place = Workplace.here()
    rows = {row.run_id: row for row in map(place.catalog.find, run_ids)}
    if len(rows) > 1 and format_ not in _OF_MANY:
        raise ConfigError(
            f"{format_} takes one run, got {len(rows)}", hint=f"only {' and '.join(_OF_MANY)} take several"
        )
    if license is not None and (format_ != "ro-crate" or "://" not in license):
        raise ConfigError(
            "--license is an address, for --format ro-crate",
            hint="for example --license https://spdx.org/licenses/Apache-2.0",
        )
    path = output or Path(_FORMATS[format_].replace("RUN", next(iter(rows))))
    _write(format_, path, [subject.read(row) for row in rows.values()], license, not without_outputs)
    if as_json:
        print_json({"format": format_, "path": str(path), "runs": [*rows]})
    else:
        print(path)


def _write(format_: str, path: Path, runs: list[Subject], license: str | None, data: bool) -> None:
    from orchestrator.exports import target

    if format_ == "ro-crate":
        from orchestrator.exports import ro_crate

        with target.folder(path) as folder:
            ro_crate.write(folder, runs[0], license=license, data=data)
    elif format_ == "mlflow":
        from orchestrator.exports import mlflow_store

        if path.suffix == ".zip":
            raise ConfigError("mlflow reads a folder, not a .zip", hint="for example -o mlruns")
        with target.folder(path) as folder:
            mlflow_store.write(folder, path.absolute(), runs, data=data)
    elif format_ == "cyclonedx":
        from orchestrator.exports import cyclonedx

        target.write_file(path, cyclonedx.encode(runs[0]))
    elif format_ == "openlineage":
        from orchestrator.exports import openlineage

        target.write_file(path, openlineage.encode(runs))
    else:
        target.write_file(path, runs[0].row.record)
