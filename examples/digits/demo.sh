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

printf '\n== Which runs reached 0.89, and with what?\n'
mirage ls --where 'metrics.accuracy >= 0.89' --sort -metrics.accuracy \
    --columns run_id,metrics.accuracy,config,commit,inputs,image

cat <<END

The project is $PWD. To go on there:
    cd $PWD && export PATH="$(dirname "$(command -v mirage)"):\$PATH"
    mirage show RUN          what a run was made of
    mirage reproduce RUN     make it again, and judge it
    mirage diff RUN RUN      what two runs differ in
END
