"""The same runs in MLflow's store in SQLite, and the same search by its client, in a process of its own.

MLflow makes the tables; the rows are written past it, since its own calls would take hours for 100,000 runs.
"""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from tests.validator_tools import python_with

_MAKE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(f"sqlite:///{sys.argv[1]}/mlflow.db", f"{sys.argv[1]}/mlruns")
"""
_LOAD = (
    "from mlflow import MlflowClient\nfrom mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
)
_ASK = (
    _LOAD
    + """
import sys
client = MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db")
found = client.search_runs(["0"], "metrics.accuracy >= 0.89", max_results=20, order_by=["attributes.start_time DESC"])
assert len(found) == 20 and all(run.data.metrics["accuracy"] >= 0.89 for run in found)
"""
)
_START = 1_767_225_600_000  # 1 January 2026, in milliseconds


class Tracking:
    """A folder with `mlflow.db`; ``add`` takes runs in the order of their beginning."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._python = str(python_with("mlflow_sql.txt"))
        subprocess.run([self._python, "-c", _MAKE, str(folder)], check=True, capture_output=True)
        self._sql = sqlite3.connect(folder / "mlflow.db")
        self._number = 0

    def add(self, params: dict[str, Any], metrics: dict[str, float], status: str, commit: str) -> None:
        """One run of the default experiment, as its client would have written it."""
        number, self._number = self._number, self._number + 1
        run, at = f"{number:032x}", _START + number * 60_000
        self._sql.execute(
            "INSERT INTO runs VALUES (?, ?, 'LOCAL', 'main.py', '', 'user', ?, ?, ?, ?, 'active', ?, 0, NULL)",
            (run, f"run-{number}", "FINISHED" if status == "succeeded" else "FAILED", at, at + 1500, commit,
             f"mlruns/0/{run}/artifacts"),
        )  # fmt: skip
        values = [(key, value, at, run) for key, value in metrics.items()]
        self._sql.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, 0, 0)", values)
        self._sql.executemany("INSERT INTO latest_metrics VALUES (?, ?, ?, 0, 0, ?)", values)
        self._sql.executemany(
            "INSERT INTO params VALUES (?, ?, ?)", [(key, str(value), run) for key, value in params.items()]
        )
        tags = {"mlflow.runName": f"run-{number}", "mlflow.source.git.commit": commit, "mlflow.user": "user"}
        self._sql.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(k, v, run) for k, v in tags.items()])

    def close(self) -> None:
        """All runs are in."""
        self._sql.commit()
        self._sql.execute("ANALYZE")  # the best case: its planner knows the tables
        self._sql.commit()
        self._sql.close()

    def load(self) -> list[str]:
        """What its client and its store cost before any question."""
        return [self._python, "-c", _LOAD]

    def ask(self) -> list[str]:
        """The search."""
        return [self._python, "-c", _ASK, str(self._folder)]
