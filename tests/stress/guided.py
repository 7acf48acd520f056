"""One target of tests/fuzzing.py under Atheris (libFuzzer), which follows what its inputs reach.

`python -m tests.stress.guided TARGET FOLDER [LIBFUZZER OPTIONS]`; FOLDER gets the seeds, and what is new.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["orchestrator", "mirage"]):
    from mirage.errors import MirageError as SdkError
    from orchestrator.errors import MirageError
    from tests.fuzzing import targets


def main() -> None:
    """Feed it until libFuzzer's options say that it is enough."""
    name, folder, *options = sys.argv[1:]
    action, seeds = targets()[name]
    for number, seed in enumerate(seeds):
        (Path(folder) / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        with contextlib.suppress(MirageError, SdkError):
            action(data)

    atheris.Setup([sys.argv[0], folder, *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
