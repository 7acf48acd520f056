"""The looks of a long step: a bar by click, without its own writing to the terminal, or a line now and then."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import click

from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # what click.progressbar gives; only its name


class Bars:
    """What is shown of each step that is under way."""

    def __init__(self) -> None:
        self._bars: dict[str, ProgressBar[int]] = {}
        self._said: dict[str, float] = {}

    def drawn(self, step: str, done: int, total: int | None, *, ended: bool) -> str | None:
        """A step as one line with a bar; None where it is over."""
        if ended:
            self._bars.pop(step, None)
            return None
        if total is None:
            return f"{step}  {readable_size(done)}"
        bar = self._bars.get(step)
        if bar is None:
            # its file is a place that nobody looks at: click would write straight to the terminal, and hide the cursor
            bar = self._bars[step] = click.progressbar(
                length=max(1, total), show_eta=True, width=24, file=io.StringIO()
            )
        bar.length = max(1, total)  # of a pull it grows
        bar.make_step(min(done, total) - bar.pos)
        bar.label = f"{step}  {readable_size(done)} of {readable_size(total)}"
        return bar.format_progress_line().rstrip()

    def line(self, step: str, done: int, total: int | None, *, ended: bool, every: float) -> str | None:
        """A step as a line, not sooner than ``every`` seconds after the last one; its end only after another line."""
        now = time.monotonic()
        if ended:
            if self._said.pop(step, now) < 0:
                return _words(step, done, total)
            return None
        first = self._said.setdefault(step, now)
        if now - abs(first) < every:
            return None
        self._said[step] = -now  # below zero: something was said
        return _words(step, done, total)


def _words(step: str, done: int, total: int | None) -> str:
    return f"{step}: {readable_size(done)}" + ("" if total is None else f" of {readable_size(total)}")
