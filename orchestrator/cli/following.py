"""`mirage wait` and `mirage cancel`: of a run that another process follows, and of one that nobody does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace

if TYPE_CHECKING:
    from orchestrator.catalog import Row
    from orchestrator.reference import RunId

_HELP = {"help_option_names": ["-h", "--help"]}
_POLL = 0.1
# Seconds beyond a run's grace after which its follower is taken as unable to stop it.
_PATIENCE = 20.0
EXIT = {"succeeded": 0, "failed": 1, "interrupted": 130, "lost": 8}


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as one JSON object.")
def wait(run_id: str, as_json: bool) -> int:
    """Wait until a run is sealed; the exit code is the one that `mirage-run` has for it.

    Where the engine ended it and it is made again, this waits for the last attempt.

    A run that no living process follows is followed from here, as `mirage recover` does.
    """
    place = Workplace.here()
    row = _sealed(place, _open_run(place, run_id), run_id)
    _tell(row, as_json)
    return EXIT[str(row.recorded()["status"])]


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as one JSON object.")
def cancel(run_id: str, as_json: bool) -> None:
    """Stop a run: SIGTERM, and SIGKILL after 10 s. What it saved stays, and its record says who cancelled it.

    Works from any process of this machine, whoever follows the run. One that has ended is left as it is.
    """
    place = Workplace.here()
    _tell(_sealed(place, _open_run(place, run_id), run_id, cancelled=True), as_json)


def _open_run(place: Workplace, text: str) -> RunId | None:
    """The open run that an id, the beginning of one, or `latest` names; None where there is none."""
    from orchestrator.errors import ConfigError

    unfinished = place.folders.unfinished()
    found = unfinished[-1:] if text == "latest" else [each for each in unfinished if each.startswith(text)]
    if len(found) > 1:
        raise ConfigError(f"{text!r} means more than one run: {', '.join(found)}", hint="give more of the id")
    return found[0] if found else None


def _sealed(place: Workplace, opened: RunId | None, text: str, *, cancelled: bool = False) -> Row:
    """Wait for a run's end, or bring it about where nobody else does; of one that is made again, for the last's.

    Raises ConfigError for one that is not there.
    """
    from orchestrator import cancelling, journal, retrying
    from orchestrator.definition import GRACE
    from orchestrator.errors import EngineError
    from orchestrator.recover import Left

    run_id = place.catalog.find(text).run_id if opened is None else opened
    asked: RunId | None = None
    kill_at = 0.0
    while True:
        run_id, more = retrying.last(place.folders, run_id)
        going = run_id in place.folders.unfinished()
        if not going and not more:
            return place.catalog.find(run_id)
        if cancelled and asked != run_id:
            cancelling.ask(place.folders, run_id)
            asked, kill_at = run_id, time.monotonic() + GRACE + _PATIENCE
        if going and not journal.is_held(place.folders, run_id):
            (found,) = place.recovery.recover([run_id])
            if isinstance(found, Left) and run_id in place.folders.unfinished() and not found.alive:
                raise EngineError(f"{run_id} cannot be sealed from here: {found.reason}")
        if cancelled and going and time.monotonic() > kill_at:
            kill_at = time.monotonic() + _PATIENCE
            place.reporter.warn("the process that follows it does not stop it: killing the container")
            handle = place.executor.find(run_id)
            if handle is not None:
                place.executor.kill(handle)
        time.sleep(_POLL)


def _tell(row: Row, as_json: bool) -> None:
    told = row.recorded()
    if as_json:
        print_json({name: told[name] for name in ("run_id", "status", "exit_code", "reason", "record")})
    else:
        how = f" ({told['reason']})" if told["reason"] else ""
        print(f"{row.run_id} {told['status']}{how}")
