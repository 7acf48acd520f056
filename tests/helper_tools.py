"""Helpers of a store (orchestrator/store/helping.py): those that were started, counted, and killed in their work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator import process
from orchestrator.store import helping

Started = list[Any]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """A helper takes part after a few files; those that were started."""
    monkeypatch.setattr(helping, "ALONE", 32)
    found: Started = []
    start = process.start_beside

    def remember(argv: Sequence[str], descriptor: int) -> Any:
        found.append(start(argv, descriptor))
        return found[-1]

    monkeypatch.setattr(process, "start_beside", remember)
    return found


def answers(monkeypatch: pytest.MonkeyPatch, kind: type[helping.Taker] | type[helping.Copier]) -> list[int]:
    """How many files each answer of a helper was about, and was of use for."""
    found: list[int] = []
    answer = kind.answer

    def count(self: Any) -> Any:
        given = answer(self)
        found.append(sum(each is not None for each in given))
        return given

    monkeypatch.setattr(kind, "answer", count)
    return found


def kill_after(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[helping.Taker] | type[helping.Copier],
    started: Started,
    count: int,
) -> None:
    """SIGKILL after so many answers, while it has more to do."""
    answer, given = kind.answer, 0

    def kill(self: Any) -> Any:
        nonlocal given
        if given == count:
            started[0].kill()
        given += 1
        return answer(self)

    monkeypatch.setattr(kind, "answer", kill)
