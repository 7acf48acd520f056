"""`mirage-run` with everything cached and a workflow that does nothing, against `docker run --rm` of the same image."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from bench import _projects

ROUNDS = 15
CONFIG = "configs/data.yaml"


def main() -> None:
    """Print both medians and the median ratio; the two take turns, so that a busy machine slows both."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        project = _projects.digits(Path(folder) / "digits")
        _, first = _projects.run(project, CONFIG)
        ours, floor = [], []
        for _ in range(ROUNDS):
            seconds, _ = _projects.run(project, CONFIG)
            ours.append(seconds)
            floor.append(_projects.docker_run(first["image"]["engine_id"]))
        ratios = [a / b for a, b in zip(ours, floor, strict=True)]
        print(f"  mirage-run  {median(ours):.3f} s (min {min(ours):.3f})")
        print(f"  docker run  {median(floor):.3f} s (min {min(floor):.3f})")
        print(f"  ratio       {median(ratios):.2f} (aim: at most 2)")
