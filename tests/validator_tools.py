"""Other people's programs in environments of their own, made once: they bring packages that ours must not depend on."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent / "validators"


def python_with(requirements: str) -> Path:
    """The Python of an environment with what a file in tests/validators lists; made where it is not there yet."""
    lines = (HERE / requirements).read_bytes()
    name = f"{Path(requirements).stem}-{sha256(lines).hexdigest()[:12]}"
    place = Path(sys.prefix) / "share" / "mirage-tests" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    python = place / "bin" / "python"
    uv = str(Path(sys.executable).parent / "uv")
    with (place.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            commands = (
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)],
                [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(HERE / requirements)],
            )
            for command in commands:
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            (place / "ready").touch()
    return python


def judge(kind: str, paths: Sequence[Path]) -> dict[Path, list[str]]:
    """What a format's own validator says against each file or folder; nothing where it is content."""
    done = subprocess.run(
        [str(python_with("requirements.txt")), str(HERE / "judge.py"), kind, *map(str, paths)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"path"')]
    found = {Path(each["path"]): each["problems"] for each in lines}
    assert list(found) == list(paths)
    return found
