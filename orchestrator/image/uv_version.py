"""Which uv is installed here. By the name of its metadata's folder: the library for it takes longer to load than to ask."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.util import find_spec

_FOLDER = re.compile(r"uv-([0-9][0-9A-Za-z.!+]*)\.dist-info")


@cache
def installed() -> str:
    """The version of the one uv beside this program; raises importlib's PackageNotFoundError without it."""
    spec = find_spec("uv")
    beside = os.path.dirname(os.path.dirname(spec.origin)) if spec is not None and spec.origin else ""
    found = [
        match[1] for name in (os.listdir(beside) if beside else ()) if (match := _FOLDER.fullmatch(name))
    ]
    if len(found) == 1:
        return found[0]
    from importlib.metadata import version

    return version("uv")
