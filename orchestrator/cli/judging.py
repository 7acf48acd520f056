"""`mirage verify` and `mirage reproduce`: check a record without running, and make its run again and judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.cli.reproducing import Outcome
    from orchestrator.ports import Engine

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--require-signature", "signed", is_flag=True, help="Take no record that a trusted key has not signed."
)
@_JSON
def verify(run_id: str, signed: bool, as_json: bool) -> int:
    """Check a run's record and everything that it names, without running anything.

    RUN is an id, the beginning of one, or `latest`. The exit code is 0, 9 where something is not what the record
    says, or 10 where something is missing.
    """
    from orchestrator.judging.record import Record
    from orchestrator.judging.verify import exit_code, summary
    from orchestrator.judging.verify import verify as check
    from orchestrator.source import state
    from orchestrator.trust import trusted

    place = Workplace.here()
    state.check(place.folder)
    trust = trusted.load(place.project.folder)
    row = place.catalog.find(run_id)
    record, folder = Record(row.run_id, row.record), place.project.folder
    found = check(record, place.store, folder, _engine(place), trust=trust, signed=signed)
    if as_json:
        findings: list[Json] = [{"check": f.check, "state": f.state, "text": f.text} for f in found]
        print_json(
            {"run_id": row.run_id, "verdict": summary(found), "record": row.digest, "findings": findings}
        )
    else:
        for finding in found:
            print(f"{finding.state:<9} {finding.check:<28} {finding.text}")
        print(f"{row.run_id}: {summary(found)}")
    return exit_code(found)


def _engine(place: Workplace) -> Engine | None:
    """The engine, where there is one that answers."""
    from orchestrator.errors import EngineError

    try:
        place.engine.info()
    except EngineError as error:
        place.reporter.warn(f"no engine is asked: {error.message}")
        return None
    return place.engine


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--rebuild", is_flag=True, help="Build base, environment and image anew, and say whether they are equal."
)
@click.option(
    "--repeat",
    type=click.IntRange(1, 100),
    default=1,
    metavar="N",
    help="Run it N times, and compare these too.",
)
@click.option(
    "--rtol", type=click.FloatRange(min=0), metavar="X", help="Relative tolerance of numbers, of everything."
)
@click.option(
    "--atol", type=click.FloatRange(min=0), metavar="X", help="Absolute tolerance of numbers, of everything."
)
@click.option(
    "--ignore", multiple=True, metavar="REGEX", help="Leave out what matches in text, and JSON paths."
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(
        ("network", "gpus", "runtime", "pids", "memory", "cpus", "shm_size", "secrets")  # allowance.KEYS
    ),
    help="Let the record have this beyond what project.yaml allows here.",
)
@_JSON
def reproduce(
    run_id: str,
    rebuild: bool,
    repeat: int,
    rtol: float | None,
    atol: float | None,
    ignore: tuple[str, ...],
    allow: tuple[str, ...],
    as_json: bool,
) -> int:
    """Make a run again from its record and the store, and judge it output by output.

    RUN is an id, the beginning of one, or `latest`. The exit code is 0 where all is identical or within the
    tolerance, 9 where something differs, 10 where image or inputs cannot be had, 1 where the workflow fails and did
    not before.
    """
    from orchestrator.cli import reproducing
    from orchestrator.source import state

    tolerance = reproducing.tolerances_of(rtol, atol, ignore)
    place = Workplace.here()
    state.check(place.folder)
    outcome = reproducing.reproduce(
        place, place.catalog.find(run_id), tolerance, rebuild=rebuild, repeat=repeat, allow=allow
    )
    if as_json:
        print_json(outcome.to_json())
    else:
        _tell(outcome)
    return outcome.exit_code


def _tell(outcome: Outcome) -> None:
    judged = outcome.judged
    print(f"{outcome.original} made again as {', '.join(outcome.runs)}")
    image = judged.image
    equal = "the same digest" if image["equal"] else f"another digest: {image['digest']}"
    print(f"  image   {image['wanted']} ({image['origin']}, {equal})")
    for each in judged.verdicts:
        told = "" if each.difference is None else f"  {each.difference}"
        self_ = "  (also differs from itself)" if each.varies and each.verdict != "IDENTICAL" else ""
        print(f"  {each.verdict:<16} {each.kind} {each.name}{told}{self_}")
    if judged.first is not None:
        print(f"  first difference: {judged.first.kind} {judged.first.name}")
    for source in judged.sources:
        print(f"  probable source: {source}")
    print(f"  verdict {judged.summary}, kept as {outcome.digest}")
