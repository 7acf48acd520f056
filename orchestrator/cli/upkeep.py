"""`mirage recover` and `mirage doctor`: what dead processes left, and whether this machine is ready."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace

if TYPE_CHECKING:
    from orchestrator.ports import Engine

_HELP = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_HELP)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON object.")
def recover(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Adopt or reap what a dead process left, so that every run ends with one record.

    Without RUN: all open runs of this project. A run that still goes on is followed to its end.
    """
    from orchestrator import hints
    from orchestrator.errors import ConfigError
    from orchestrator.recover import Recovered
    from orchestrator.source import state

    place = Workplace.here()
    state.check(place.folder)
    unfinished = place.folders.unfinished()
    chosen = unfinished
    if run_ids:
        chosen = [run_id for run_id in unfinished if run_id.startswith(run_ids)]
        missing = [text for text in run_ids if not any(run_id.startswith(text) for run_id in chosen)]
        if missing:
            raise ConfigError(
                f"no open run {', '.join(missing)}",
                hint=f"open runs: {', '.join(unfinished) or 'none'}; `mirage ls` lists all",
            )
    found = place.recovery.recover(chosen)
    if as_json:
        print_json(
            {
                "recovered": [
                    {
                        "run_id": item.plan.run_id,
                        "status": item.sealed.result.status,
                        "exit_code": item.sealed.result.exit_code,
                        "record": item.sealed.record,
                    }
                    for item in found
                    if isinstance(item, Recovered)
                ],
                "left": [
                    {"run_id": item.run_id, "reason": item.reason}
                    for item in found
                    if not isinstance(item, Recovered)
                ],
            }
        )
        return
    if not found:
        print("nothing to recover: every run of this project has its record")
    for item in found:
        if isinstance(item, Recovered):
            result = item.sealed.result
            how = f" ({result.reason})" if result.reason else ""
            print(f"{item.plan.run_id} {result.status}{how}")
            for output in result.outputs:
                print(f"  saved  {output.id}")
            for hint in hints.going_on(item.plan.run_id, item.plan.definition(), result):
                print(f"  -> {hint}")
        else:
            print(f"{item.run_id} left alone: {item.reason}")


@click.command(context_settings=_HELP)
@click.option("--rot", is_flag=True, help="Say of every past run what it would still need from outside.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def doctor(rot: bool, as_json: bool) -> int:
    """Check git, engine, store, disk and leftovers, and say what to do; the exit code is that of what fails.

    With --rot: past runs instead; the exit code is 10 where one needs something that the store does not have.
    """
    if rot:
        return _rot(as_json)
    from orchestrator.cli.doctor import examine

    findings = examine(Workplace.here)
    if as_json:
        print_json(
            {
                "findings": [
                    {"check": f.check, "state": f.state, "text": f.text, "hint": f.hint} for f in findings
                ]
            }
        )
    else:
        for finding in findings:
            print(f"{finding.state:<5} {finding.check:<9} {finding.text}")
            if finding.hint and finding.state != "ok":
                print(f"      {'':<9} -> {finding.hint}")
    return next((finding.exit_code for finding in findings if finding.state == "fail"), 0)


def _rot(as_json: bool) -> int:
    """What past runs would need, the newest first."""
    from orchestrator.errors import CannotVerify, MirageError
    from orchestrator.image.library import Library
    from orchestrator.judging import rot
    from orchestrator.judging.record import Record
    from orchestrator.store.folder import FolderStore

    place = Workplace.here()
    engine: Engine | None = place.engine
    try:
        place.engine.info()
    except MirageError as error:
        place.reporter.warn(f"no engine is asked: {error.message}")
        engine = None
    rows = sorted(place.catalog.rows(), key=lambda row: row.run_id, reverse=True)
    records = [Record(row.run_id, row.record) for row in rows]
    with tempfile.TemporaryDirectory() as nothing:
        library = Library(FolderStore.open_at(Path(nothing)), place.store)
        found = list(rot.examine(records, place.store, library, place.project.folder, engine))
    if as_json:
        print_json({"runs": [each.to_json() for each in found]})
    else:
        for each in found:
            print(f"{each.state:<8} {each.run_id}  image from {each.image}")
            for need in each.needs:
                print(f"{'':<8} needs {need}")
    return 0 if all(each.state == rot.WHOLE for each in found) else CannotVerify.exit_code
