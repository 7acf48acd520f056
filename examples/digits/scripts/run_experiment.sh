#!/bin/sh
# Run one experiment: scripts/run_experiment.sh [CONFIG] [more options of mirage-run]
set -eu
cd "$(dirname "$0")/.."
config="${1:-configs/experiment_001.yaml}"
[ $# -eq 0 ] || shift
exec mirage-run --config "$config" "$@"
