"""Which host this process speaks to: the run's container (`mirage.outbox`) or the project itself
(`mirage.plain`). Owns the choice and the one session of the process; knows neither side's format.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock

TYPE_CHECKING = False  # type checkers take it as true by its name; importing `typing` costs 10 ms
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object


class Session(Protocol):
    """What a host gives to a workflow; implemented for the container and for plain mode."""

    config_path: str

    def config_values(self) -> dict[str, Any]:
        """The resolved config."""

    def input_ids(self) -> tuple[str, ...]:
        """The ids of the run's inputs, as the config writes them."""

    def resolve(self, id: str) -> dict[str, Any]:
        """An input's entry, with an absolute ``path``; raises ArtifactError for an id that is no input."""

    def resumed(self, beginning: str = "") -> tuple[dict[str, Any], ...]:
        """The entries of what the run had saved that this one resumes, whose ids begin so; oldest first."""

    def new_payload(self) -> tuple[int, str]:
        """A number and an empty directory of that number, for this caller alone."""

    def publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Hand a written payload over and wait for the answer: ``id``, ``digest``, ``size``, or ``error``."""

    def secret(self, name: str) -> bytes:
        """The value of a secret; raises ConfigError for one that `run.secrets` does not name."""

    def log_metrics(self, line: dict[str, Any]) -> None:
        """Append one line of metrics."""

    def log_event(self, line: dict[str, Any]) -> None:
        """Append one event."""


_current: Session | None = None
_opening = allocate_lock()


def current() -> Session:
    """The session of this process, opened at the first call; raises MirageError where there is none."""
    global _current
    with _opening:
        if _current is None:
            _current = _open()
        return _current


def active() -> Session | None:
    """The session where this process is part of a run, else None.

    A decorated function that a test or a notebook calls, without a run and without `--config` on the
    command line, is a plain function.
    """
    if _current is None and "MIRAGE_RUN_ID" not in os.environ:
        given = any(word == "--config" or word.startswith("--config=") for word in sys.argv[1:])
        if not given:
            return None
    return current()


def _open() -> Session:
    if "MIRAGE_RUN_ID" in os.environ:
        from mirage.outbox import OutboxSession

        return OutboxSession(os.environ.get("MIRAGE_ROOT", "/mirage"))
    from mirage.plain import open_session

    return open_session(sys.argv[1:])
