"""The hermeticity audit, on against off: the digits training, and interpreters and files that do nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench import _projects

ROUNDS = 9
STARTS = 40
OPENS = "for _ in range(20000):\n    open('/etc/hostname').close()\n"


def main() -> None:
    """Print the ratios of the medians; on and off take turns, so that a busy machine slows both."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        _training(Path(folder))
        _interpreters(Path(folder))


def _training(folder: Path) -> None:
    project = folder / "digits"
    shutil.copytree(
        _projects.ROOT / "examples" / "digits",
        project,
        ignore=shutil.ignore_patterns("cache", "runs", "open", "artifacts"),
    )
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    _projects.commit(project)
    run(project, "configs/data.yaml")
    seconds: dict[str, list[float]] = {"true": [], "false": []}
    for _ in range(ROUNDS):
        for audit, taken in seconds.items():
            found = run(project, "configs/experiment_001.yaml", "--set", f"mirage.run.audit={audit}")
            taken.append(found["timing"]["execute"])
    on, off = median(seconds["true"]), median(seconds["false"])
    print(f"  digits training  on {on:.3f} s, off {off:.3f} s, ratio {on / off:.3f} (aim: at most 1.02)")


def run(project: Path, *words: str) -> dict[str, dict[str, float]]:
    """One run of the project; gives its JSON object."""
    command = [str(_projects.BIN / "mirage-run"), "--json", "--config", *words]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def _interpreters(folder: Path) -> None:
    sdk = folder / "sdk"
    sdk.mkdir()
    (folder / "out").mkdir()
    shutil.copyfile(_projects.ROOT / "mirage" / "startup.py", sdk / "sitecustomize.py")
    for what, program, rounds in (
        ("an interpreter's start", "pass", STARTS),
        ("20,000 opens", OPENS, ROUNDS),
    ):
        taken: dict[str, list[float]] = {"1": [], "0": []}
        for _ in range(rounds):
            for audit, seconds in taken.items():
                env = {
                    "PYTHONPATH": str(sdk),
                    "MIRAGE_RUN_ID": "x",
                    "MIRAGE_ROOT": str(folder),
                    "MIRAGE_AUDIT": audit,
                }
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-c", program], env={"PATH": os.environ["PATH"], **env}, check=True
                )
                seconds.append(time.perf_counter() - begun)
        on, off = median(taken["1"]), median(taken["0"])
        print(f"  {what:<24} on {on * 1000:.1f} ms, off {off * 1000:.1f} ms, ratio {on / off:.3f}")
