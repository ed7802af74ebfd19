#!/usr/bin/env bash
# Writes the examples beside it anew, a directory for each kind of place: what jaxneg launch makes of one run.
set -euo pipefail
cd "$(dirname "$0")"
run='gs://music/mine.py --workdir /data/runs/mine --data.store gs://music/stores/mine'
images=us-docker.pkg.dev/my-project/jaxneg
cloud=(--project my-project --zone us-west4-a)

rm -rf tpu-vm jobset xpk slurm ray
jaxneg launch tpu-vm --topology v5e:4x4 --spot --image "$images/tpu" --mount gs://music=/data "${cloud[@]}" \
    --run "$run" --out tpu-vm
jaxneg launch jobset --topology v5e:4x4 --spot --image "$images/tpu" --mount gs://music=/data --queue team \
    --account trainer --run "$run" --out jobset
jaxneg launch xpk --topology v5e:4x4 --image "$images/tpu" --cluster my-cluster "${cloud[@]}" --run "$run" --out xpk
jaxneg launch slurm --topology h100:8x2 --image "$images/cuda" --mount /shared=/data --run "$run" --out slurm
jaxneg launch ray --topology v6e:4x4 --run "$run" --out ray
