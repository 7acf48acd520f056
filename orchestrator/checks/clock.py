"""Clocks: how far this machine's is from that of the store's server and of the engine.

Records carry this machine's time, a bucket refuses requests that are a quarter of an hour off, and a collection of
garbage tells ages by the store's clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from orchestrator.checks.finding import FAIL, OK, WARN, Finding
from orchestrator.errors import StoreError
from orchestrator.store import folder_upkeep
from orchestrator.store.folder import FolderStore

if TYPE_CHECKING:
    from orchestrator.ports import Store

_WORTH_TELLING = (
    5.0  # seconds: some servers tell whole ones, and some kernels stamp files with a tick's delay
)
_TOO_FAR = 15 * 60.0  # what S3 refuses (RequestTimeTooSkewed)
_HINT = "set the clock: timedatectl set-ntp true, or chronyc makestep"


def of_store(store: Store) -> Iterator[Finding]:
    """Against the server of the store: the time stamp of a file that is written there, or the Date of an answer."""
    from orchestrator.store.s3 import S3Store

    before = time.time()
    if isinstance(store, FolderStore):
        there: float | None = folder_upkeep.now(store)
    elif isinstance(store, S3Store):
        answer = store.bucket.send("GET", "store.json", "read store.json", accept=(200, 404))
        there = _moment(answer.headers.get("date", ""))
    else:
        there = None
    if there is None:
        yield Finding("clock", WARN, "the store's server does not say what time it is", None)
        return
    yield judged("the store's server", there - (before + time.time()) / 2, StoreError.exit_code)


def judged(whose: str, ahead: float, exit_code: int) -> Finding:
    """A clock that is ``ahead`` seconds ahead of this machine's (behind, where it is negative)."""
    far = abs(ahead)
    if far < _WORTH_TELLING:
        return Finding("clock", OK, f"as that of {whose}, within {max(1.0, far):.0f} s")
    words = f"that of {whose} is {_span(far)} {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return (
        Finding("clock", FAIL, words, _HINT, exit_code)
        if far >= _TOO_FAR
        else Finding("clock", WARN, words, _HINT)
    )


def _moment(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() + 0.5  # whole seconds: on average half of one has gone
    except (TypeError, ValueError):
        return None


def _span(seconds: float) -> str:
    for size, word in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s"
