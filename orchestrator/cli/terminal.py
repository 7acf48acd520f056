"""What people see: progress and warnings on stderr, results and tables on stdout; colour on a terminal only."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from orchestrator.canonical import Json
from orchestrator.cli.screen import Screen

if TYPE_CHECKING:
    from types import TracebackType

    from orchestrator.redaction import Redactor, Secrets

_screens: list[Screen] = []
_PR_SET_DUMPABLE = 4  # prctl(2)
_redactor: Redactor | None = None  # without secrets nothing is loaded for them


def hide(secrets: Secrets) -> None:
    """From now on nothing that this process prints shows these values, tracebacks included; nor does a core dump."""
    global _redactor
    _redactor = secrets.redactor
    import ctypes
    import resource
    from contextlib import suppress

    sys.excepthook = _show_exception
    threading.excepthook = lambda seen: _show_exception(
        seen.exc_type, seen.exc_value or seen.exc_type(), seen.exc_traceback
    )
    with suppress(OSError, ValueError, AttributeError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # also where a program takes the dumps


def _clean(text: str) -> str:
    return text if _redactor is None else _redactor.text(text)


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    sys.stderr.write(_clean("".join(traceback.format_exception(kind, error, trace))))


def harmless(text: str) -> str:
    """Text as it may go to a terminal: what is not printable (escape sequences, text that turns around) is spelt out.

    Names of metrics, of files and of branches come from workflows, stores and repositories of others.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _spelt(c) for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class HarmlessText(io.TextIOWrapper):
    """A text stream that lets no control character through but line ends and tabs; ``buffer`` takes bytes as they are."""

    exact = False

    def write(self, text: str) -> int:
        """Write text, harmless unless it is to be exact."""
        super().write(text if self.exact else harmless(text))
        return len(text)


def guard_stdout() -> None:
    """From here on what is printed as text is harmless; the workflow's own log goes through ``buffer``."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not isinstance(sys.stdout, HarmlessText):
        encoding, line = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = HarmlessText(
            sys.stdout.detach(), encoding=encoding, errors="backslashreplace", line_buffering=line
        )


def exact_for_programs() -> None:
    """Print values exactly as they are where a program reads them; a terminal still gets them harmless."""
    if isinstance(sys.stdout, HarmlessText) and not sys.stdout.isatty():
        sys.stdout.exact = True


class TerminalReporter:
    """A Reporter on stderr; the workflow's own output passes through byte for byte."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.Lock()
        terminal = self._stream.isatty()
        self._colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._folds = terminal
        self._folded = False
        self._line_open = False
        self._screen = Screen(self._stream)
        self._shows_log = True
        _screens.append(self._screen)

    def leave_terminal(self) -> None:
        """From now on the stream is a file: no folding, no colour, and nothing of the log, which is kept elsewhere."""
        self._screen.settle()
        self._folds = self._colour = self._shows_log = False

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins."""
        self._line(self._paint("==>", "36"), f" {name}{': ' + detail if detail else ''}")

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._line("", f"    {text}")

    def warn(self, text: str) -> None:
        """Something to know."""
        self._line(self._paint("warning:", "33"), f" {text}")

    def detail(self, text: str) -> None:
        """A line of a long step: the last one only, on a terminal; nothing elsewhere."""
        if self._folds:
            with self._lock:
                self._put(f"\r\x1b[K    {harmless(_clean(text)[:100])}".encode("utf-8", "replace"))
                self._folded = True

    def log(self, stream: str, data: bytes) -> None:
        """Output of the workflow."""
        if not self._shows_log:
            return
        with self._lock:
            self._unfold()
            self._screen.put(data, log=True)
            self._line_open = not data.endswith(b"\n")

    def _line(self, head: str, text: str) -> None:
        with self._lock:
            self._unfold()
            if self._line_open:
                self._put(b"\n")
                self._line_open = False
            self._put((head + harmless(_clean(text))).encode("utf-8", "replace") + b"\n")

    def _unfold(self) -> None:
        if self._folded:
            self._put(b"\r\x1b[K")
            self._folded = False

    def _put(self, data: bytes) -> None:
        self._screen.put(data)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def settle() -> bool:
    """Let what is on its way to the terminal arrive, before anything is written past it; False where it does not."""
    arrived = [screen.settle() for screen in _screens]
    return all(arrived)


def print_json(value: Json) -> None:
    """One JSON document on stdout; what is not printable in it stands as JSON's own escapes."""
    text = json.dumps(value if _redactor is None else _redactor.json(value), indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():
        # all of it is inside of strings, where an escape means the same
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    sys.stdout.write(text + "\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fail(message: str, hint: str | None) -> None:
    """An error on stderr: what happened, then what to do next."""
    if not settle():
        return  # nobody reads it: writing would wait for ever
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head = "\x1b[31merror:\x1b[0m" if colour else "error:"
    print(f"{head} {harmless(_clean(message))}", file=sys.stderr)
    if hint:
        print(f"  -> {harmless(_clean(hint))}", file=sys.stderr)
