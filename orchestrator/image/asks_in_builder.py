"""Asks the backend of a source what else its build requires (PEP 517), run in a builder without logins and network.

argv: the source's folder, the backend, where the answer goes as JSON, and the folders that the backend may lie in.
Standard library only.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main() -> None:
    """Load the backend as PEP 517 says, ask it, and write its answer down."""
    folder, spelled, out, *paths = sys.argv[1:]
    os.chdir(folder)
    sys.path[:0] = [os.path.join(folder, path) for path in paths]
    module, _, attributes = spelled.partition(":")
    backend = importlib.import_module(module)
    for name in filter(None, attributes.split(".")):
        backend = getattr(backend, name)
    ask = getattr(backend, "get_requires_for_build_wheel", None)
    found = [str(each) for each in ask(None)] if ask is not None else []
    with open(out, "w", encoding="utf-8") as target:
        json.dump(found, target)


if __name__ == "__main__":
    main()
