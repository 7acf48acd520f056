"""`--json-events`: progress for programs, one JSON object a line on stderr, in place of the words for people.

The fields of each event are in docs/cli.md. What is slow to read loses output of the workflow, with an event that says
how much, and never slows the run.
"""

from __future__ import annotations

import codecs
import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

import click

from orchestrator.cli import terminal
from orchestrator.cli.screen import Screen

if TYPE_CHECKING:
    from orchestrator.canonical import Json

_BETWEEN = 0.2  # seconds between two events of one step's progress


class EventReporter:
    """A Reporter that writes JSON lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._screen = Screen(sys.stderr if stream is None else stream, _dropped)
        self._lock = threading.Lock()
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._said: dict[str, float] = {}
        self._shows_log = True
        terminal.settles(self._screen)

    def leave_terminal(self) -> None:
        """From now on the stream is a file: nothing of the log, which is kept elsewhere."""
        self._screen.settle()
        self._shows_log = False

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins."""
        self.event("stage", {"name": name, "detail": detail})

    def note(self, text: str) -> None:
        """Something worth a line."""
        self.event("note", {"text": text})

    def warn(self, text: str) -> None:
        """Something to know."""
        self.event("warning", {"text": text})

    def detail(self, text: str) -> None:
        """A line of a long step, such as an installer's."""
        self.event("detail", {"text": text})

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None:
        """How far a step is; its end is always told."""
        now = time.monotonic()
        with self._lock:
            if not ended and now - self._said.get(step, 0.0) < _BETWEEN:
                return
            self._said[step] = now
        self.event("progress", {"step": step, "done": done, "total": total, "ended": ended})

    def event(self, name: str, fields: Mapping[str, Json]) -> None:
        """One line."""
        with self._lock:
            self._screen.put(_line(name, fields))

    def log(self, stream: str, data: bytes) -> None:
        """Output of the workflow, as text; bytes that are none stand as `\\xNN`."""
        if not self._shows_log:
            return
        with self._lock:
            decoder = self._decoders.setdefault(
                stream, codecs.getincrementaldecoder("utf-8")("backslashreplace")
            )
            text = decoder.decode(data)
            if text:
                self._screen.put(_line("log", {"stream": stream, "text": text}), log=True)


def _line(name: str, fields: Mapping[str, Json]) -> bytes:
    told: Any = terminal.redacted({"time": round(time.time(), 3), "event": name, **fields})
    return json.dumps(told).encode() + b"\n"


def _dropped(size: int) -> bytes:
    return _line("dropped", {"bytes": size})


def _fail(message: str, hint: str | None, code: int) -> None:
    sys.stderr.write(_line("error", {"message": message, "hint": hint, "exit_code": code}).decode())
    sys.stderr.flush()


def _chosen(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        terminal.speak(EventReporter, _fail)


OPTION = click.option(
    "--json-events",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_chosen,
    help="Tell progress on stderr as JSON lines.",
)
