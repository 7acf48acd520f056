"""Loaded by a mirage-run that a test starts: it dies by SIGKILL at one point of a run, MIRAGE_TEST_PHASE.

`MOMENT KIND WHAT`. MOMENT is `before`, `after`, or `torn` (half of a line is written). KIND is `line` (of the journal,
by its event), `name` (of an object in the store, by its key's beginning) or `call` (to the engine, by a regular
expression on `METHOD PATH`).
"""

import http.client
import os
import re
import signal
from typing import Any

from orchestrator.journal import Journal

_MOMENT, _KIND, _WHAT = os.environ["MIRAGE_TEST_PHASE"].split(" ", 2)


def _die(moment: str) -> None:
    if moment == _MOMENT:
        os.kill(os.getpid(), signal.SIGKILL)


def _lines() -> None:
    write = Journal.write

    def written(self: Journal, event: str, **fields: Any) -> None:
        if event == _WHAT:
            _die("before")
            if _MOMENT == "torn":
                self._file.write(b'{"event": "' + event.encode()[:3])
                _die("torn")
        write(self, event, **fields)
        if event == _WHAT:
            _die("after")

    Journal.write = written  # type: ignore[method-assign]


def _names() -> None:
    link = os.link

    def linked(source: Any, target: Any, **words: Any) -> None:
        mine = f"/artifacts/{_WHAT}" in str(target)
        if mine:
            _die("before")
        link(source, target, **words)
        if mine:
            _die("after")

    os.link = linked  # type: ignore[assignment]  # it takes what our own calls give


def _calls() -> None:
    ask, answer = http.client.HTTPConnection.putrequest, http.client.HTTPConnection.getresponse

    def asked(self: Any, method: str, url: str, *words: Any, **more: Any) -> None:
        self.mirage_met = re.search(_WHAT, f"{method} {url}") is not None
        if self.mirage_met:
            _die("before")
        ask(self, method, url, *words, **more)

    def answered(self: Any) -> Any:
        found = answer(self)
        if self.mirage_met:
            _die("after")
        return found

    http.client.HTTPConnection.putrequest = asked  # type: ignore[method-assign]
    http.client.HTTPConnection.getresponse = answered  # type: ignore[method-assign]


{"line": _lines, "name": _names, "call": _calls}[_KIND]()
