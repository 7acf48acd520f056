"""`metrics.log`: numbers of a run, by name and step. Owns what counts as a number."""

from __future__ import annotations

import math
import operator
import sys
import time

from mirage import session

TYPE_CHECKING = False  # see mirage/session.py
if TYPE_CHECKING:
    from typing import Any

_EXACT = 2**53  # integers beyond it have no exact JSON form (RFC 7493 section 2.2)

_warned = False


def log(step: Any = None, **values: Any) -> None:
    """Log numbers by name: `metrics.log(accuracy=0.89, step=3)`; the last value of a name is the run's.

    ``step`` is an integer (typed loosely, so that `log(**numbers)` passes type checkers). Values are ints,
    floats, and whatever `float()` takes, such as NumPy and torch scalars. NaN and infinities have no JSON
    form: they are kept as null, and the first one is told on stderr. Raises TypeError for a bool, a string
    and everything that is no number, ValueError where no value is given.
    """
    if not values:
        raise ValueError("metrics.log needs at least one value, such as metrics.log(accuracy=0.89, step=3)")
    line = {
        "time": time.time(),
        "step": _step(step),
        "values": {name: _number(name, value) for name, value in values.items()},
    }
    session.current().log_metrics(line)


def _step(step: Any) -> int | None:
    if step is None:
        return None
    if isinstance(step, bool) or not hasattr(step, "__index__"):
        raise TypeError(f"step must be an integer, not {type(step).__name__} {step!r}")
    return operator.index(step)


def _number(name: str, value: Any) -> int | float | None:
    kind = type(value).__name__
    if isinstance(value, (bool, str, bytes)) or kind in ("bool_", "bool"):
        raise TypeError(
            f"the metric {name!r} must be a number, not {kind} {value!r}; say what it counts, such as int(...)"
        )
    if isinstance(value, int) and abs(value) <= _EXACT:
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # torch raises RuntimeError
        raise TypeError(f"the metric {name!r} must be a number, not {kind}: {error}") from error
    if math.isfinite(number):
        return number
    global _warned
    if not _warned:
        _warned = True
        print(
            f"mirage: the metric {name!r} is {number}; it is kept as null (told once)",
            file=sys.stderr,
            flush=True,
        )
    return None
