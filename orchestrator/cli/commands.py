"""All commands of `mirage` as click has them, each imported when it is called, so that help and start-up stay light."""

from __future__ import annotations

from importlib import import_module

import click

from orchestrator import __version__

# name -> (module, attribute, one line of help)
COMMANDS = {
    "run": ("run_command", "run", "Run a config: image, container, artifacts, record."),
    "init": ("project", "init", "Make a new project, ready to commit."),
    "ls": ("ls_command", "ls", "List runs, newest first."),
    "show": ("questions", "show", "Show one run."),
    "logs": ("logs", "logs", "Print a run's output."),
    "diff": ("relations", "diff", "What differs between two runs."),
    "lineage": ("relations", "lineage", "Where an artifact comes from, and what was made of it."),
    "explain": ("relations", "explain", "What decided each key of a run, and what was nearest."),
    "tag": ("questions", "tag", "Tag a run."),
    "note": ("questions", "note", "Write a note beside a run."),
    "report": ("reporting", "report", "Write a report of runs: one HTML file."),
    "export": ("exporting", "export", "Write runs for other tools: RO-Crate, CycloneDX, MLflow, ..."),
    "verify": ("judging", "verify", "Check a run's record and all that it names, running nothing."),
    "reproduce": ("judging", "reproduce", "Make a run again, and judge it output by output."),
    "key": ("keys", "key", "Keys that sign records, and keys that are trusted."),
    "log": ("keys", "log", "The store's log of records: checkpoint, verify."),
    "artifact": ("artifacts", "artifact", "Look at artifacts and take them out."),
    "base": ("images", "base", "Build, pin and show the base image."),
    "image": ("images", "image", "Build the image of a config without running it."),
    "wait": ("following", "wait", "Wait for a run's end."),
    "cancel": ("following", "cancel", "Stop a run, whoever follows it."),
    "recover": ("upkeep", "recover", "Adopt or reap what a dead process left."),
    "gc": ("collecting", "gc", "Remove from the store what nothing needs."),
    "fsck": ("collecting", "fsck", "Check every byte of the store, and mend it."),
    "doctor": ("upkeep", "doctor", "Check engine, store, disk and leftovers."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mirage")
def mirage() -> None:
    """Reproducible runs: one commit, one lock, one config, one image digest.

    `mirage-run` is `mirage run`. Documentation: docs/ in Mirage's repository.
    """


def command(name: str) -> click.Command:
    """A command by its name."""
    module, attribute, _ = COMMANDS[name]
    found: click.Command = getattr(import_module(f"orchestrator.cli.{module}"), attribute)
    return found


def call(called: click.Command, name: str) -> int:
    """Run a command on this process's arguments, to its exit code. Wrong usage is shown here; what else, is raised."""
    try:
        return int(called.main(prog_name=name, standalone_mode=False) or 0)
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort as error:
        raise KeyboardInterrupt from error
