#!/bin/sh
# Run one experiment: scripts/run_experiment.sh [--plain] [CONFIG]
# With --plain it runs in this machine's Python instead of in a container.
set -eu
cd "$(dirname "$0")/.."
if [ "${1:-}" = --plain ]; then
    shift
    exec python3 -m workflows.training_pipeline --config "${1:-configs/experiment_001.yaml}"
fi
exec mirage-run --config "${1:-configs/experiment_001.yaml}"
