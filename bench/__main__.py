"""`python -m bench [NAME...]`: run the measurements of this folder, all of them without a name.

Each module here has `main()`, which prints what it saw beside its floor.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import bench


def main(names: list[str]) -> int:
    """Run the named measurements; exit code 2 for a name that is none."""
    known = [each.name for each in pkgutil.iter_modules(bench.__path__) if not each.name.startswith("_")]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no measurement {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        module = importlib.import_module(f"bench.{name}")
        print(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        module.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
