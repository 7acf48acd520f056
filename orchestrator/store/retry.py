"""Trying again what may pass: with growing, random waits, and never anything that will not change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.store.bucket.failures import BucketError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How often, and how long at most, in seconds, between two tries.

    Eight tries: where one request in ten fails, one in a hundred million fails for good. ``longest``: seconds after
    which no further try begins, since a silent server takes much longer for each than one that fails.
    """

    tries: int = 8
    first_wait: float = 0.1
    longest_wait: float = 5.0
    longest: float = 45.0

    def retried(self, action: Callable[[], _T]) -> _T:
        """The action's result; where each try failed, the last error. Raises at once what cannot pass."""
        began = time.monotonic()
        try:
            return action()  # nearly always: without loading a library for it
        except BucketError as error:
            if not error.passing or self.tries < 2:
                raise
        import tenacity

        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.tries - 1)
            | tenacity.stop_after_delay(self.longest - (time.monotonic() - began)),
            wait=tenacity.wait_random_exponential(multiplier=self.first_wait, max=self.longest_wait),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, BucketError) and error.passing),
            reraise=True,
        )
        again.sleep(self.first_wait)
        return again(action)
