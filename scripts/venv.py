#!/usr/bin/env python3
"""The project's own virtual environment `.venv`: made once, and again only when pyproject.toml changes.

Standard library only. Where Debian's Python cannot make one, python3-venv is installed first.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import packages
from scripts.packages import Missing, say

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"


def state() -> str:
    """What the installation depends on: the project's metadata, where it is, and which Python."""
    metadata = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return f"{metadata} {ROOT} {Path(sys.base_prefix)} {sys.version_info[0]}.{sys.version_info[1]}\n"


def is_current() -> bool:
    """Whether `.venv` is what this checkout needs."""
    try:
        return STAMP.read_text() == state() and (VENV / "bin" / "python").exists()
    except OSError:
        return False


def make() -> None:
    """Make `.venv` and install the project in it, editable, with what its tests need. Raises Missing."""
    if sys.version_info[:2] < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        raise Missing(
            f"Python {found} is too old: 3.10 or later is needed", "install one, then: make PYTHON=python3.12"
        )
    python = getattr(sys, "_base_executable", "") or sys.executable  # not the venv that is to be replaced
    if not packages.has_ensurepip(python):
        packages.ensure(["python3-venv"])
        if not packages.has_ensurepip(python):
            python = "/usr/bin/python3"
    if not is_made_by(python):
        run([python, "-m", "venv", "--clear", str(VENV)], "making .venv")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-qq", "-e", f"{ROOT}[dev]"]
    run(pip, "installing the project and its tools into .venv")
    STAMP.write_text(state())


def is_made_by(python: str) -> bool:
    """Whether `.venv` is there, works, and is of this very Python."""
    asked = "import sys, pip; print(sys.base_prefix, sys.version_info[:2])"
    try:
        mine, other = (
            subprocess.run([each, "-c", words], capture_output=True)
            for each, words in (
                (str(VENV / "bin" / "python"), asked),
                (python, asked.replace(", pip", "")),
            )
        )
    except OSError:
        return False
    return mine.returncode == 0 and mine.stdout == other.stdout


def run(command: list[str], what: str) -> None:
    """Run one step, its complaints on stderr. Raises Missing where it fails."""
    say(what)
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, env={**os.environ, **quiet}, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode != 0:
        raise Missing(f"{what} failed with {done.returncode}; the reason is above", "mend it, then try again")


def main() -> int:
    """Make `.venv` unless it is current; exit code 1 where it cannot be made."""
    try:
        if not is_current():
            make()
    except Missing as error:
        say(f"error: {error}\n  -> {error.hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
