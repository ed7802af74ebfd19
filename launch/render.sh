#!/usr/bin/env bash
# Writes the examples beside it anew, a directory for each kind of place: what jaxneg launch makes of one description.
set -euo pipefail
cd "$(dirname "$0")"
run='gs://music/mine.py --workdir /data/runs/mine --data.store gs://music/stores/mine'
registry=us-docker.pkg.dev/my-project/jaxneg

rm -rf tpu-vm
jaxneg launch tpu-vm --topology v5e:4x4 --spot --image "$registry/tpu" --mount gs://music=/data --run "$run" \
    --project my-project --zone us-west4-a --out tpu-vm
