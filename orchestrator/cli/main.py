"""Entry points of `mirage` and `mirage-run`: finds the command, and is the only place that exits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from orchestrator.cli.terminal import fail, guard_stdout, is_gone, settle
from orchestrator.errors import MirageError, StoreError


def _call(command: Callable[[], int]) -> int:
    """Run a command to its exit code; every failure becomes a message on stderr."""
    os.umask(os.umask(0o077) | 0o002)  # whoever else is on this machine writes no store, journal or outbox
    guard_stdout()
    try:
        return command()
    except MirageError as error:
        fail(error.message, error.hint, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        fail("interrupted", None, 130)
        return 130
    except OSError as error:
        if is_gone(error) and error.filename is None:
            # the reader of stdout went away (`mirage ls | head`): not an error, and nothing more can be said
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        # a disk or a permission, somewhere that no better message is known for
        fail(
            f"{error.filename or 'a file'}: {error.strerror or error}",
            "is there space, and are its folders yours?",
            StoreError.exit_code,
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
    _leave(_call(_mirage))


def run_main() -> None:
    """The `mirage-run` program."""
    _leave(_call(_mirage_run))


def _mirage() -> int:
    if sys.argv[1:2] == ["ls"] and "_MIRAGE_COMPLETE" not in os.environ:
        from orchestrator.cli.plain_options import options_of_ls

        asked = options_of_ls(sys.argv[2:])
        if asked is not None:
            from orchestrator.cli.listing import list_runs

            list_runs(**asked)
            return 0
    from orchestrator.cli import commands

    return commands.call(commands.mirage, "mirage")


def _mirage_run() -> int:
    from orchestrator.cli import commands

    return commands.call(commands.command("run"), "mirage-run")
