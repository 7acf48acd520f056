"""What people see: progress and warnings on stderr, results and tables on stdout; colour on a terminal only."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from orchestrator.canonical import Json
from orchestrator.cli.screen import Screen

if TYPE_CHECKING:
    from types import TracebackType

    from orchestrator.cli.bars import Bars
    from orchestrator.ports import Reporter
    from orchestrator.redaction import Redactor, Secrets

_screens: list[Screen] = []
_PR_SET_DUMPABLE = 4  # prctl(2)
_redactor: Redactor | None = None  # without secrets nothing is loaded for them
# Where there is no terminal: seconds between two lines about one step, and two of an installer's lines.
_LINE_EVERY = 10.0


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
        self._bars: Bars | None = None
        self._said = time.monotonic()  # when the last line was written
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
        """A line of a long step: the last one only, on a terminal; elsewhere one now and then, as a sign of life."""
        if self._folds:
            self._fold(text[:100])
        elif time.monotonic() - self._said > _LINE_EVERY and text.strip():
            self.note(text[:200])

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None:
        """How far a step is: a bar on a terminal, a line now and then elsewhere."""
        if self._bars is None:
            if ended:
                return  # nothing was said of it: it was done in a moment
            from orchestrator.cli.bars import Bars

            self._bars = Bars()
        if self._folds:
            text = self._bars.drawn(step, done, total, ended=ended)
            if text is None:
                with self._lock:
                    self._unfold()
            else:
                self._fold(text)
        elif (text := self._bars.line(step, done, total, ended=ended, every=_LINE_EVERY)) is not None:
            self.note(text)

    def event(self, name: str, fields: Mapping[str, Json]) -> None:
        """Nothing: people see the rest."""

    def _fold(self, text: str) -> None:
        with self._lock:
            if not self._line_open:  # half a line of the workflow's own is not ours to write over
                self._put(f"\r\x1b[K    {harmless(_clean(text))}".encode("utf-8", "replace"))
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
            self._said = time.monotonic()
            self._put((head + harmless(_clean(text))).encode("utf-8", "replace") + b"\n")

    def _unfold(self) -> None:
        if self._folded:
            self._put(b"\r\x1b[K")
            self._folded = False

    def _put(self, data: bytes) -> None:
        self._screen.put(data)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


_reporter: Callable[[], Reporter] = TerminalReporter
_fail: Callable[[str, str | None, int], None] | None = None


def speak(reporter: Callable[[], Reporter], failure: Callable[[str, str | None, int], None]) -> None:
    """From now on progress and errors are told by these, in place of words for people."""
    global _reporter, _fail
    _reporter, _fail = reporter, failure


def reporter() -> Reporter:
    """What tells progress in this process."""
    return _reporter()


def settles(screen: Screen) -> None:
    """Let ``settle`` wait for this one too."""
    _screens.append(screen)


def redacted(value: Json) -> Json:
    """A value without the secrets of this process."""
    return value if _redactor is None else _redactor.json(value)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Print to somebody who may be gone: a closed pipe, or a terminal that hung up (EIO, termios(3)), is no error."""
    try:
        yield
    except OSError as error:
        if not is_gone(error):
            raise


def is_gone(error: OSError) -> bool:
    """Whether it says that nobody reads any more."""
    return error.errno in (errno.EPIPE, errno.EIO)


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


def fail(message: str, hint: str | None, code: int) -> None:
    """An error on stderr: what happened, then what to do next."""
    if not settle():
        return  # nobody reads it: writing would wait for ever
    if _fail is not None:
        _fail(message, hint, code)
        return
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head = "\x1b[31merror:\x1b[0m" if colour else "error:"
    print(f"{head} {harmless(_clean(message))}", file=sys.stderr)
    if hint:
        print(f"  -> {harmless(_clean(hint))}", file=sys.stderr)
