#!/bin/sh
# The image of the services, built by Mirage itself from Debian and PyPI packages, and keys for them in compose/.env.
# Run again, it brings the image up to date and leaves the keys alone.
set -eu
cd "$(dirname "$0")"

if ! command -v mirage >/dev/null; then
    echo "prepare.sh: mirage is not on the PATH; run 'make services' at the top of the repository" >&2
    exit 2
fi

image=$(mirage image build --config configs/services.yaml --snapshot --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["engine_id"])')
docker tag "$image" mirage/services:latest

if [ ! -e .env ]; then
    umask 077
    secret=$(python3 -c 'import secrets; print(secrets.token_hex(20))')
    cat >.env <<END
# What docker compose puts into services.yaml. Not for git.
MIRAGE_STORE_KEY=mirage
MIRAGE_STORE_SECRET=$secret
# Where the services listen: loopback, or this machine's address in the team's network.
MIRAGE_ADDRESS=127.0.0.1
END
fi
echo "The image mirage/services:latest is there, the keys are in compose/.env. Now:"
echo "    docker compose -f compose/services.yaml up -d"
