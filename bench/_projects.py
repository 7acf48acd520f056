"""Committed projects to measure with, and runs of the real command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
_GIT = ["git", "-c", "user.name=Bench", "-c", "user.email=bench@example.org"]


def digits(folder: Path) -> Path:
    """A copy of the digits example with a workflow that does nothing, committed."""
    shutil.copytree(
        ROOT / "examples" / "digits",
        folder,
        ignore=shutil.ignore_patterns("cache", "runs", "open", "artifacts"),
    )
    (folder / "workflows" / "nothing.py").write_text('"""Does nothing."""\n')
    for number in range(200):
        (folder / "src" / f"part_{number:03}.py").write_text(f"# part {number}\n" + "VALUE = 0\n" * 1000)
    subprocess.run([*_GIT, "init", "-q", str(folder)], check=True)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit everything."""
    subprocess.run([*_GIT, "-C", str(folder), "add", "-A"], check=True)
    subprocess.run([*_GIT, "-C", str(folder), "commit", "-q", "-m", "Work"], check=True)


def run(folder: Path, config: str) -> tuple[float, dict[str, Any]]:
    """One run of the workflow that does nothing: seconds of the whole process, and its JSON object."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [str(BIN / "mirage-run"), "--config", config, "--workflow", "workflows.nothing", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return seconds, json.loads(done.stdout)


def docker_run(image: str) -> float:
    """The floor: the same image and command, without a network, by the engine's own client."""
    started = time.perf_counter()
    command = ["docker", "run", "--rm", "--network", "none", image, "python", "-m", "workflows.nothing"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
