"""Reads an MLflow tracking folder as its own client does: `read_mlruns.py FOLDER`, one JSON object of all runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(folder: str) -> None:
    """Print every run with its metrics' histories, params, tags and files."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=Path(folder).absolute().as_uri())
    experiments = client.search_experiments()
    found = []
    for run in client.search_runs(
        [each.experiment_id for each in experiments], order_by=["attributes.start_time"]
    ):
        pending: list[str] = [""]
        files: list[str] = []
        while pending:
            for each in client.list_artifacts(run.info.run_id, pending.pop()):
                (pending if each.is_dir else files).append(each.path)
        found.append(
            {
                "name": run.info.run_name,
                "status": run.info.status,
                "seconds": (run.info.end_time - run.info.start_time) / 1000,
                "params": run.data.params,
                "tags": run.data.tags,
                "last": {name: str(value) for name, value in run.data.metrics.items()},
                "metrics": {
                    name: [
                        (each.step, str(each.value))
                        for each in client.get_metric_history(run.info.run_id, name)
                    ]
                    for name in run.data.metrics
                },
                "files": sorted(files),
            }
        )
    best = client.search_runs([e.experiment_id for e in experiments], "metrics.accuracy >= 0.89")
    names = [each.name for each in experiments]
    print(json.dumps({"experiments": names, "runs": found, "best": [each.info.run_name for each in best]}))


if __name__ == "__main__":
    main(sys.argv[1])
