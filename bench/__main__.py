"""`python -m bench [NAME...]`: run measurements; without a name, list them.

Each module in this folder has `main()`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import bench


def main(names: list[str]) -> int:
    """Run the named measurements, or say which there are."""
    known = [
        module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_")
    ]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no measurement {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names:
        importlib.import_module(f"bench.{name}").main()
    for name in known if not names else []:
        summary = (importlib.import_module(f"bench.{name}").__doc__ or "").strip().splitlines()
        print(f"{name}: {summary[0] if summary else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
