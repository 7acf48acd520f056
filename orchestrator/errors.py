"""Typed errors: what happened, what was expected, what to do next; each carries its exit code.

Owns the exit codes of the command line (design section 5). Raises nothing itself, prints nothing.
"""

from __future__ import annotations


class MirageError(Exception):
    """Base of everything that Mirage raises on purpose.

    ``message`` says what happened and what was expected; ``hint`` says what to do next.
    Both are meant for a person at a terminal; ``exit_code`` is meant for scripts.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  -> {self.hint}"


class WorkflowFailed(MirageError):
    """The workflow ended with a code of its own, a signal, out of memory or a timeout."""

    exit_code = 1


class ConfigError(MirageError):
    """A config, project.yaml, option or argument cannot be used as written."""

    exit_code = 2


class SourceError(MirageError):
    """Not a repository, no commit, a dirty tree, or content that git cannot give."""

    exit_code = 3


class LockError(MirageError):
    """The lock file is missing, ambiguous, not pinned, or cannot be installed."""

    exit_code = 4


class ImageError(MirageError):
    """The base, a layer or the run image could not be made, loaded or verified."""

    exit_code = 5


class ArtifactError(MirageError):
    """An artifact id is malformed or unknown, or an output cannot be taken."""

    exit_code = 6


class StoreError(MirageError):
    """The store cannot be read or written, or what it holds is damaged.

    ``away``: a remote store could not be asked, or did not let us; what was to be kept is whole on this machine.
    """

    exit_code = 7
    away = False


class EngineError(MirageError):
    """The container engine is missing, unreachable, too old, or refused."""

    exit_code = 8


class ReproducedWithDifferences(MirageError):
    """A run was made again, or checked, and something differs."""

    exit_code = 9


class CannotVerify(MirageError):
    """Something that the check needs is missing."""

    exit_code = 10


class Interrupted(MirageError):
    """Ctrl-C or a termination signal ended the work."""

    exit_code = 130


def at_line(where: str, line: int | None) -> str:
    """``file:line`` as editors and compilers write it (the line counts from 1)."""
    return where if line is None else f"{where}:{line}"


def nearest(word: str, known: list[str], limit: int = 3) -> list[str]:
    """The known words closest to ``word``, best first; for "did you mean"."""
    import difflib

    return difflib.get_close_matches(word, known, n=limit, cutoff=0.5)


def did_you_mean(word: str, known: list[str]) -> str | None:
    """A hint sentence naming the nearest known words, or None where nothing is near."""
    close = nearest(word, known)
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else None
