"""`mirage-run`, the product: options to a request, a request to a run, a run to an answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import __version__
from orchestrator.cli import events
from orchestrator.cli.following import EXIT
from orchestrator.cli.orphans import settle_orphans
from orchestrator.cli.terminal import print_json, reader_may_leave, settle
from orchestrator.cli.wiring import EngineSoon, Workplace
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.attempts import Finished
    from orchestrator.canonical import Json
    from orchestrator.cli.detaching import Background


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The config to run.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=V",
    help="Change a value of the config (+A.B=V adds one).",
)
@click.option("--workflow", metavar="MOD.ULE", help="Run this module instead of the project's.")
@click.option("--snapshot", is_flag=True, help="Run a dirty tree as a snapshot commit.")
@click.option(
    "--network", type=click.Choice(["none", "bridge", "host"]), help="The workflow's network (default: none)."
)
@click.option("--gpus", metavar="N|all|IDS", help="GPUs for the workflow.")
@click.option(
    "--resume",
    "resumed",
    metavar="RUN",
    help="Start a run that died or failed again, with what it had saved.",
)
@click.option("--timeout", metavar="DURATION", help="Stop the run after it: 90, 15m, 2h.")
@click.option("--detach", is_flag=True, help="Print the run's id as soon as it has started, and return.")
@click.option("--no-cache", is_flag=True, help="Build base, environment and image anew, and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@events.OPTION
@click.version_option(__version__, prog_name="mirage-run")
@click.argument("extra", metavar="[-- ARGUMENTS...]", nargs=-1)
def run(
    config_file: Path | None,
    overrides: tuple[str, ...],
    workflow: str | None,
    snapshot: bool,
    network: str | None,
    gpus: str | None,
    resumed: str | None,
    timeout: str | None,
    detach: bool,
    no_cache: bool,
    as_json: bool,
    extra: tuple[str, ...],
) -> int:
    """Run a config of a committed project in its own image, and keep what it saved with a record of how.

    Arguments after -- go to the workflow.
    """
    flags: dict[str, Json] = {}
    if workflow is not None:
        flags["workflow"] = workflow
    if snapshot:
        flags["dirty"] = "snapshot"
    if network is not None:
        flags["run.network"] = network
    if gpus is not None:
        flags["run.gpus"] = _gpus(gpus)
    if timeout is not None:
        flags["run.timeout"] = timeout
    if resumed is not None:
        beside = {
            "--config": config_file,
            "--workflow": workflow,
            "--snapshot": snapshot,
            "--no-cache": no_cache,
        }
        _refuse_beside_resume({**beside, "arguments after --": extra})
    elif config_file is None:
        near = (
            f"did you mean --config {extra[0]}?" if extra and extra[0].endswith((".yaml", ".yml")) else None
        )
        raise ConfigError(
            "which config? --config FILE is missing",
            hint=near or "for example --config configs/experiment_001.yaml",
        )
    background = None
    if detach:
        from orchestrator.cli import detaching

        background = detaching.fork(as_json)  # before there is any thread
    engine = EngineSoon()
    if config_file is None:
        from orchestrator.cli import resuming

        finished = resuming.resume(str(resumed), overrides, flags, engine, background)
    else:
        finished = _run(config_file, overrides, flags, extra, no_cache, engine, background)
    settle()
    with reader_may_leave():  # whoever read stdout went away: the exit code still says how it ended
        if as_json:
            from orchestrator.run import to_json

            print_json(to_json(finished))
        else:
            _tell(finished)
        sys.stdout.flush()
    return EXIT[finished.sealed.result.status]


def _refuse_beside_resume(given: dict[str, object]) -> None:
    """What the run that is resumed decides already. Raises ConfigError."""
    told = [name for name, value in given.items() if value]
    if told:
        raise ConfigError(
            f"--resume and {told[0]} do not go together: a resumed run has the commit, config and command of the first",
            hint="leave it out; what may be otherwise is --timeout, --gpus and --set mirage.run.memory=...",
        )


def _run(
    config_file: Path,
    overrides: tuple[str, ...],
    flags: dict[str, Json],
    extra: tuple[str, ...],
    no_cache: bool,
    engine: EngineSoon,
    background: Background | None,
) -> Finished:
    """Run a config."""
    from orchestrator.config import find_project, load_config, load_project

    start = config_file.resolve().parent
    if not start.is_dir():
        start = Path.cwd()
    project = load_project(find_project(start))
    config = load_config(project, config_file, overrides, flags)
    place = Workplace(project, config.settings, engine)
    secrets = place.secrets(config.settings.run.secrets)
    if secrets.values:
        from orchestrator.secret_sources import refuse_in

        words = "\0".join((*overrides, *extra)).encode("utf-8", "surrogateescape")
        env = "\0".join(value for _, value in config.settings.run.env).encode()
        places = (config.path, config.raw + config.canonical), ("run.env", env), ("the command line", words)
        refuse_in(secrets, places)
    from orchestrator import run as runs
    from orchestrator.prepare import Request

    settle_orphans(place)
    request = Request(config, overrides, extra, no_cache)
    started = None if background is None else background.leave(place.folders, place.reporter)
    return runs.run(request, place.services(secrets), started=started)


def _gpus(text: str) -> Json:
    if text == "all":
        return "all"
    return int(text) if text.isdigit() else [part for part in text.split(",") if part]


def _tell(finished: Finished) -> None:
    """The end of a run for people: stdout carries it."""
    result, plan = finished.sealed.result, finished.plan
    how = "" if result.reason is None else f": {result.reason}"
    print(f"{plan.run_id} {result.status}{how} ({result.seconds:.1f} s)")
    for output in result.outputs:
        print(f"  saved  {output.id}  {output.digest[:19]}")
    for problem in result.unpublished:
        print(f"  not published: {problem}")
    for name, value in result.metrics:
        print(f"  metric {name} = {value:.6g}" if value is not None else f"  metric {name} = (not a number)")
    image = plan.summary()["image"]
    assert isinstance(image, dict)
    changed = plan.summary()["fences"]
    if isinstance(changed, list) and changed:
        print(f"  fences {', '.join(map(str, changed))}")
    again = plan.summary().get("retry_of")
    if isinstance(again, dict):
        print(f"  again  after {again['run']}, which the engine or the machine ended")
    resumed = plan.summary().get("resume_of")
    if isinstance(resumed, dict):
        print(f"  resumes {resumed['run']}, from {', '.join(map(str, resumed['artifacts']))}")  # type: ignore[arg-type]
    print(f"  image  {image['digest']}")
    print(f"  record {finished.sealed.record}")
    for hint in finished.hints:
        print(f"  -> {hint}")
    if result.status == "failed":
        print(f"  -> `mirage logs {plan.run_id}` prints its output again")
