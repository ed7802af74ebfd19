#!/usr/bin/env bash
# Trains on GKE through xpk, which writes the JobSet and hands it to Kueue.
#
#   launch/xpk.sh launch/run.env
#
# Needs xpk (pip install xpk), a cluster of `xpk cluster create`, and storage on /data (`xpk storage attach`).
set -euo pipefail
# shellcheck source=launch/run.env
source "${1:-launch/run.env}"

xpk workload create \
    --project="$PROJECT" \
    --zone="$ZONE" \
    --cluster="$CLUSTER" \
    --workload="$NAME" \
    --tpu-type="$TPU_TYPE" \
    --num-slices="$SLICES" \
    --docker-image="$IMAGE" \
    --max-restarts="$RESTARTS" \
    --restart-on-user-code-failure \
    --termination-grace-period-seconds="$GRACE" \
    --env="GLIBC_TUNABLES=glibc.malloc.hugetlb=1" \
    --command="jaxneg train '$CONFIG' --workdir '$WORKDIR' --data.store '$STORE' $OPTIONS"
