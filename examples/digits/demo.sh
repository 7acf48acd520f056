#!/bin/sh
# The digits from raw images to the best model: data, two experiments, one question.
set -eu
cd "$(dirname "$0")"

if ! command -v mirage-run >/dev/null; then
    echo "demo.sh: mirage-run is not on the PATH; run 'make demo' at the top of the repository" >&2
    exit 2
fi

# --snapshot: in an edited checkout the demo runs what is there; in a clean one it changes nothing.
for config in configs/data.yaml configs/experiment_001.yaml configs/experiment_002.yaml; do
    printf '\n== mirage-run --config %s\n' "$config"
    mirage-run --config "$config" --snapshot
done

printf '\n== mirage ls --sort -metrics.accuracy --limit 3\n'
mirage ls --sort -metrics.accuracy --limit 3

printf '\n== Which run is best, and with which config?\n'
mirage ls --json | python3 -c '
import json, sys

document = json.load(sys.stdin)
runs = document["runs"] if isinstance(document, dict) else document
judged = [run for run in runs if run["status"] == "succeeded" and run["metrics"].get("accuracy") is not None]
best = max(judged, key=lambda run: run["metrics"]["accuracy"])
run_id, accuracy, config = best["run_id"], best["metrics"]["accuracy"], best["config"]
print(f"Run {run_id} is the best of {len(judged)}: accuracy {accuracy:.4f} on the test images, with {config}.")
'
