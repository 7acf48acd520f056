"""`mirage recover` and `mirage doctor`: what dead processes left, and whether this machine is ready."""

from __future__ import annotations

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace

_HELP = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_HELP)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON object.")
def recover(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Adopt or reap what a dead process left, so that every run ends with one record.

    Without RUN: all open runs of this project. A run that still goes on is followed to its end.
    """
    from orchestrator.errors import ConfigError
    from orchestrator.recover import Recovered

    place = Workplace.here()
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
        else:
            print(f"{item.run_id} left alone: {item.reason}")


@click.command(context_settings=_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def doctor(as_json: bool) -> int:
    """Check git, engine, store, disk and leftovers, and say what to do; the exit code is that of what fails."""
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
