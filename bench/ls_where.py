"""`mirage ls --where 'metrics.accuracy >= 0.89' --limit 20` over 100,000 runs, against SQLite itself; and its index.

Beside it MLflow's store in SQLite with the same runs, asked by its own client in a fresh process, in turns with ours.
The floor: the same 20 answers from a bare SQLite table (run, accuracy) with an index, in a fresh process that imports
nothing but sqlite3; and the interpreter's own start. Ours is the whole program. The index is warm: it is there, and
the store did not change. Then a first question (the index is made), and one after a new run.

Needs about 4 GiB in the system's temporary folder (TMPDIR says where), and RUNS says how many.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench._mlflow import Tracking
from bench._projects import BIN
from orchestrator.digest import of_bytes
from tests.record_tools import Records, hexed, run_id

RUNS = int(os.environ.get("RUNS", "100000"))
ROUNDS = 15
QUESTION = "metrics.accuracy >= 0.89"
_ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_FLOOR = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(database.execute("SELECT run FROM runs WHERE accuracy >= 0.89 ORDER BY run DESC LIMIT 20").fetchall())
"""


def _timed(argv: list[str], folder: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, env=_ENV, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return seconds


def _measured(argv: list[str], folder: Path) -> tuple[float, float, int]:
    """Seconds, seconds of processor time, and MiB at the most, of one process."""
    began = time.perf_counter()
    with subprocess.Popen(argv, cwd=folder, env=_ENV, stdout=subprocess.DEVNULL) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{argv} ended with {child.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10


def _fill(records: Records, floor: sqlite3.Connection, tracking: Tracking) -> None:
    chosen = random.Random(20261125)
    for number in range(RUNS):
        accuracy = chosen.random()
        _add(records, number, accuracy, chosen, tracking)
        floor.execute("INSERT INTO runs VALUES (?, ?)", (run_id(number), accuracy))
    floor.commit()
    tracking.close()


def _add(
    records: Records, number: int, accuracy: float, chosen: random.Random, tracking: Tracking | None = None
) -> None:
    config: dict[str, dict[str, Any]] = {
        "experiment": {"name": f"sweep-{number % 50}"},
        "model": {"type": chosen.choice(["cnn", "mlp"]), "layers": [8, 16, 32]},
        "training": {"lr": chosen.choice([0.1, 0.01, 1e-3]), "batch_size": 32, "epochs": 10, "seed": number},
    }
    metrics: dict[str, float | None] = {
        "accuracy": accuracy,
        "loss": chosen.random(),
        "val/loss": chosen.random(),
    }
    status = chosen.choice(["succeeded"] * 9 + ["failed"])
    if tracking is not None:
        params = {f"{top}.{name}": value for top, inner in config.items() for name, value in inner.items()}
        tracking.add(
            params, {k: v for k, v in metrics.items() if v is not None}, status, hexed(f"c{number // 3}")
        )
    records.add(
        run_id(number),
        config=config,
        metrics=metrics,
        status=status,
        branch=chosen.choice(["main", "experiment/a", "experiment/b"]),
        commit=hexed(f"c{number // 3}"),
        tree=hexed(f"t{number // 3}"),
        inputs=[f"dataset:digits:v{number // 1000 + 1}"],
        outputs=[f"model:cnn:v{number + 1}"],
        image_key=of_bytes(b"image %d" % number),
        run_key=of_bytes(b"run %d" % number),
    )


def main() -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as name:
        top = Path(name)
        project = top / "project"
        subprocess.run([str(BIN / "mirage"), "init", str(project)], check=True, capture_output=True)
        records = Records(project / ".mirage" / "artifacts", fast=True)
        floor = sqlite3.connect(top / "floor.sqlite")
        floor.execute("CREATE TABLE runs(run TEXT PRIMARY KEY, accuracy REAL)")
        floor.execute("CREATE INDEX by_accuracy ON runs(accuracy)")
        began = time.perf_counter()
        tracking = Tracking(top)
        _fill(records, floor, tracking)
        print(f"  {RUNS} records made in {time.perf_counter() - began:.0f} s", flush=True)
        ls = [str(BIN / "mirage"), "ls", "--limit", "20", "--where"]
        first, processor, memory = _measured([*ls, QUESTION], project)
        size = sum(path.stat().st_size for path in (project / ".mirage" / "cache").iterdir()) >> 20
        print(
            f"  index made        {first:.1f} s, {RUNS / first:.0f} records/s ({RUNS / processor:.0f} a processor's second), "
            f"{size} MiB, peak {memory} MiB"
        )
        time.sleep(6)
        _timed(
            [*ls, QUESTION], project
        )  # the months' signatures have stood for a while: they are trusted now
        start, bare, ours, theirs, load = [], [], [], [], []
        for _ in range(ROUNDS):
            start.append(_timed([sys.executable, "-c", "pass"], project))
            bare.append(_timed([sys.executable, "-c", _FLOOR, str(top / "floor.sqlite")], project))
            ours.append(_timed([*ls, QUESTION], project))
            theirs.append(_timed(tracking.ask(), project))
            load.append(_timed(tracking.load(), project))
        beyond = median(ours) - median(start)
        print(f"  interpreter       {median(start) * 1000:.0f} ms")
        print(
            f"  SQLite itself     {median(bare) * 1000:.0f} ms, {(median(bare) - median(start)) * 1000:.0f} beyond it"
        )
        print(
            f"  mirage ls         {median(ours) * 1000:.0f} ms, {beyond * 1000:.0f} beyond it (aim: at most 50)"
        )
        print(
            f"  MLflow's client   {median(theirs) * 1000:.0f} ms, {(median(theirs) - median(load)) * 1000:.0f} beyond "
            f"loading it; the least {min(theirs) * 1000:.0f}, of mirage ls {min(ours) * 1000:.0f}"
        )
        version = median(_timed([str(BIN / "mirage"), "--version"], project) for _ in range(ROUNDS))
        print(f"  mirage --version  {version * 1000:.0f} ms: what the command line costs before any question")
        for question in (
            "metrics.accuracy >= 2",
            "metrics.accuracy >= 0.89 and status = succeeded",
            "branch ~ experiment/*",
            "config.training.lr = 0.01 and not metrics.loss > 0.1",
        ):
            taken = median(_timed([*ls, question], project) for _ in range(5)) - median(start)
            print(f"  {taken * 1000:5.0f} ms beyond it  {question}")
        _add(records, RUNS, 0.95, random.Random(1))
        print(
            f"  after a new run   {(_timed([*ls, QUESTION], project) - median(start)) * 1000:.0f} ms beyond it"
        )
