"""Seconds from the command to the started container after a change of the config, or of the code, beside no change."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from bench import _projects

ROUNDS = 7
BEFORE_THE_WORKFLOW = ("snapshot", "lock", "resolve", "image", "fetch", "start")
CONFIG = "configs/data.yaml"


def main() -> None:
    """Print medians of each, and of `docker run --rm` of the same image; the four take turns."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        project = _projects.digits(Path(folder) / "digits")
        _projects.run(project, CONFIG)
        seen: dict[str, list[float]] = {"cached": [], "config": [], "code": [], "docker run": []}
        config, code = project / CONFIG, project / "src" / "part_000.py"
        for number in range(ROUNDS):
            config.write_text(config.read_text() + f"round_{number}: {number}\n")
            _projects.commit(project)
            seen["config"].append(_to_start(project))
            code.write_text(code.read_text() + f"ROUND = {number}\n")
            _projects.commit(project)
            seen["code"].append(_to_start(project))
            seen["cached"].append(_to_start(project))
            _, last = _projects.run(project, CONFIG)
            seen["docker run"].append(_projects.docker_run(last["image"]["engine_id"]))
        cached = median(seen["cached"])
        for name, aim in (("cached", ""), ("config", "aim: +0.05"), ("code", "aim: +0.2")):
            more = "" if name == "cached" else f"  {median(seen[name]) - cached:+.3f} s ({aim})"
            print(f"  {name:<11} {median(seen[name]):.3f} s to the started container{more}")
        print(f"  docker run  {median(seen['docker run']):.3f} s, start to end")


def _to_start(project: Path) -> float:
    _, told = _projects.run(project, CONFIG)
    return float(sum(told["timing"][stage] for stage in BEFORE_THE_WORKFLOW))
