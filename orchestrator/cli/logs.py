"""`mirage logs`: a run's output, of one that was sealed and of one that goes on, whoever follows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace

if TYPE_CHECKING:
    from orchestrator.digest import Digest
    from orchestrator.logtimes import Printer
    from orchestrator.reference import RunId

_HELP = {"help_option_names": ["-h", "--help"]}
_CHUNK = 1 << 20
_POLL = 0.1


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on while the run goes on.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), help="Only what came on this stream.")
@click.option("--timestamps", is_flag=True, help="Begin each line with the time when it came, in UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print the log with its digest as one object.")
def logs(run_id: str, follow: bool, stream: str | None, timestamps: bool, as_json: bool) -> None:
    """Print a run's output, stdout and stderr as they came.

    RUN is an id, the beginning of one, or `latest`; a run that is not finished is found too.
    """
    from orchestrator.logreading import LiveLog
    from orchestrator.logtimes import Printer, parse

    place = Workplace.here()
    unfinished = place.folders.unfinished()
    opened = [each for each in unfinished if each.startswith(run_id)]
    if run_id == "latest" and unfinished:
        opened = unfinished[-1:]
    if len(opened) == 1 and not as_json:
        log = LiveLog(place.folders.of(opened[0]))
        _print_open(place, opened[0], log, Printer(log.marks(), stream=stream, times=timestamps), follow)
        return
    row = place.catalog.find(run_id)
    digest, kept_times = row.byproduct("log"), row.byproduct("log.times")
    times = b"".join(_read(place, kept_times)) if kept_times and (stream or timestamps) else b""
    printer = Printer(parse(times.splitlines(keepends=True)), stream=stream, times=timestamps)
    if as_json:
        data = b"".join(map(printer.show, _read(place, digest))) if digest else b""
        print_json({"run_id": row.run_id, "digest": digest, "text": data.decode("utf-8", "replace")})
        return
    if digest is not None:
        for piece in _read(place, digest):
            sys.stdout.buffer.write(printer.show(piece))
        sys.stdout.flush()


def _read(place: Workplace, digest: Digest) -> Iterator[bytes]:
    """A blob's bytes, verified before the first of them is given."""
    from orchestrator.artifacts.version import verify_blob
    from orchestrator.errors import StoreError

    if not verify_blob(place.store, digest):
        raise StoreError(f"the log {digest} is missing or damaged in the store {place.store.location}")
    with place.store.open(digest) as source:
        while piece := source.read(_CHUNK):
            yield piece


def _print_open(place: Workplace, run_id: RunId, log: object, printer: Printer, follow: bool) -> None:
    """The spool of a run that goes on, from its beginning; with ``follow`` until it is sealed."""
    from orchestrator.logreading import LiveLog

    assert isinstance(log, LiveLog)
    while True:
        alive = run_id in place.folders.unfinished()
        for piece in log.read():
            sys.stdout.buffer.write(printer.show(piece))
        sys.stdout.flush()
        if not follow or not alive:
            log.close()
            return
        time.sleep(_POLL)
