"""Entry points of `mirage` and `mirage-run`: finds the command, and is the only place that exits.

Commands are imported when they are called, so that help and start-up stay light.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

import click

from orchestrator import __version__
from orchestrator.cli.terminal import fail, guard_stdout, settle
from orchestrator.errors import MirageError, StoreError

# name -> (module, attribute, one line of help)
_COMMANDS = {
    "run": ("run_command", "run", "Run a config: image, container, artifacts, record."),
    "init": ("project", "init", "Make a new project, ready to commit."),
    "ls": ("listing", "ls", "List runs, newest first."),
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
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"orchestrator.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mirage")
def mirage() -> None:
    """Reproducible runs: one commit, one lock, one config, one image digest.

    `mirage-run` is `mirage run`. Documentation: docs/ in Mirage's repository.
    """


def _call(command: click.Command, name: str) -> int:
    """Run a command to its exit code; every failure becomes a message on stderr."""
    os.umask(os.umask(0o077) | 0o002)  # whoever else is on this machine writes no store, journal or outbox
    guard_stdout()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        return int(code or 0)
    except MirageError as error:
        fail(error.message, error.hint)
        return error.exit_code
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted", None)
        return 130
    except BrokenPipeError:
        # the reader of stdout went away (`mirage ls | head`): not an error, and nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk or a permission, somewhere that no better message is known for
        fail(
            f"{error.filename or 'a file'}: {error.strerror or error}",
            "is there space, and are its folders yours?",
        )
        return StoreError.exit_code


def _leave(code: int) -> NoReturn:
    """End the process at once: taking a hundred modules apart first would cost a tenth of a cached run."""
    if settle():
        with suppress(OSError, ValueError):
            sys.stderr.flush()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def main() -> None:
    """The `mirage` program."""
    _leave(_call(mirage, "mirage"))


def run_main() -> None:
    """The `mirage-run` program."""
    module, attribute, _ = _COMMANDS["run"]
    _leave(_call(getattr(import_module(f"orchestrator.cli.{module}"), attribute), "mirage-run"))
