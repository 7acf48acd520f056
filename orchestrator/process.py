"""Running other programs (git, mmdebstrap, the docker CLI's context): the one place with subprocess."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Variables of this process that no program gets which is started here (the values of secrets).
_withheld: set[str] = set()


def withhold(names: Iterable[str]) -> None:
    """From now on no program that is started gets these variables; a successor of this process does."""
    _withheld.update(names)


@dataclass(frozen=True)
class Completed:
    """What a program left: exit code (negative: the signal), its output, its complaints."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """The last lines of stderr as text."""
        return "\n".join(self.stderr.decode("utf-8", "replace").strip().splitlines()[-20:])


class ProgramMissing(Exception):
    """The program is not on this machine."""


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    stdin: bytes | None = None,
    timeout: float | None = None,
) -> Completed:
    """Run a program to its end and give what it printed; a non-zero code is a value, not an error.

    ``env`` is added to this process's environment, after the names in ``without`` were taken out of it.
    Raises ProgramMissing where there is no such program, TimeoutError after ``timeout`` seconds.
    """
    words = [os.fspath(word) for word in argv]
    kept = _inherited(without)
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=kept if env is None else {**kept, **env},
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ProgramMissing(words[0]) from error
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{words[0]} did not end within {timeout} s") from error
    return Completed(tuple(words), done.returncode, done.stdout, done.stderr)


def _inherited(without: Collection[str] = ()) -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in without and name not in _withheld
    }


def start_detached(argv: Sequence[str], *, cwd: str, log: str) -> int:
    """Start a successor of this process, which outlives it in a session of its own; gives its process id."""
    with open(log, "ab") as sink:
        child = subprocess.Popen(
            list(argv), cwd=cwd, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    return child.pid


def start_beside(argv: Sequence[str], descriptor: int) -> subprocess.Popen[bytes]:
    """Start a program that gets this one descriptor, says nothing, and is in a session of its own: no Ctrl-C ends it."""
    return subprocess.Popen(
        list(argv),
        env=_inherited(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    )


def lines(
    argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None
) -> Iterable[tuple[str, int | None]]:
    """Run a program and give its merged output line by line, then ``("", exit code)`` once at the end.

    Raises ProgramMissing where there is no such program.
    """
    words = [os.fspath(word) for word in argv]
    try:
        child = subprocess.Popen(
            words,
            env={**_inherited(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise ProgramMissing(words[0]) from error
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            yield line.decode("utf-8", "replace").rstrip("\n"), None
    yield "", child.wait()
