"""`@flow` and `@step`: mark functions as parts of a run. Owns the events of a run and its seeding.

A decorated function takes and returns what it did before. Outside a run (in a unit test, say) it is
called as it is, without events.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType

from mirage import session
from mirage.errors import ConfigError

TYPE_CHECKING = False  # see mirage/session.py
if TYPE_CHECKING:
    from typing import Any, TypeVar, overload

    F = TypeVar("F", bound=Callable[..., Any])

_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200  # inspect.CO_*, without importing it
_LONGEST_ERROR = 2000

_inside_flow: ContextVar[bool] = ContextVar("inside_flow", default=False)


if TYPE_CHECKING:

    @overload
    def flow(function: F) -> F: ...
    @overload
    def flow(function: None = None, *, name: str | None = None) -> Callable[[F], F]: ...


def flow(function: F | None = None, *, name: str | None = None) -> F | Callable[[F], F]:
    """Mark a workflow function: `@flow` or `@flow(name="train")`.

    Logs its start, end and error, and seeds at the start of the outermost flow from MIRAGE_SEED (0 where it
    is not set): `random`, and NumPy's global generator and torch where they are imported by then. A library
    that is imported only later, and every generator made by hand, is the workflow's to seed.
    """
    return _mark("flow", function, name)


if TYPE_CHECKING:

    @overload
    def step(function: F) -> F: ...
    @overload
    def step(function: None = None, *, name: str | None = None) -> Callable[[F], F]: ...


def step(function: F | None = None, *, name: str | None = None) -> F | Callable[[F], F]:
    """Mark a part of a workflow, `@step` or `@step(name="evaluate")`: logs its start, end and error."""
    return _mark("step", function, name)


def seed_everything(seed: int) -> None:
    """Seed `random`, and the global generators of NumPy and torch where they are imported already."""
    import random  # it costs some milliseconds that a module which only loads artifacts need not pay

    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _mark(kind: str, function: F | None, name: str | None) -> F | Callable[[F], F]:
    if function is None:
        return lambda decorated: _wrap(kind, decorated, name)
    return _wrap(kind, function, name)


def _wrap(kind: str, function: F, name: str | None) -> F:
    label: str = name if name else getattr(function, "__name__", type(function).__name__)
    flags: int = getattr(getattr(function, "__code__", None), "co_flags", 0)
    if flags & _CO_ASYNC_GENERATOR:
        raise TypeError(
            f"@{kind} cannot mark the async generator {label!r}: mark the function that consumes it"
        )

    if flags & _CO_COROUTINE:

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with _Span(kind, label):
                return await function(*args, **kwargs)

        return coroutine  # type: ignore[return-value]  # the same signature, by functools.wraps

    if flags & _CO_GENERATOR:

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            with _Span(kind, label):
                return (yield from function(*args, **kwargs))

        return generator  # type: ignore[return-value]  # the same signature, by functools.wraps

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Span(kind, label):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]  # the same signature, by functools.wraps


class _Span:
    """One call of a flow or step, from its start event to its end or error event."""

    def __init__(self, kind: str, name: str) -> None:
        self._kind = kind
        self._name = name

    def __enter__(self) -> None:
        self._outermost = self._kind == "flow" and not _inside_flow.get()
        self._log("start")
        if self._outermost:
            seed_everything(_seed())
            _inside_flow.set(True)
        self._started = time.monotonic()

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        if self._outermost:
            _inside_flow.set(False)
        if error is None or isinstance(error, GeneratorExit) or _is_success(error):
            self._log("end", seconds)
        else:
            self._log("error", seconds, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])

    def _log(self, what: str, seconds: float | None = None, error: str | None = None) -> None:
        host = session.active()
        if host is not None:
            event = f"{self._kind}-{what}"
            host.log_event(
                {"time": time.time(), "event": event, "name": self._name, "seconds": seconds, "error": error}
            )


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _seed() -> int:
    text = os.environ.get("MIRAGE_SEED", "0")
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"MIRAGE_SEED must be an integer, not {text!r}") from None
