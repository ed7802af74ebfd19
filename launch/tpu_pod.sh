#!/usr/bin/env bash
# Trains on a TPU VM slice: the same command on every host, and again on all when one is lost.
#
#   launch/tpu_pod.sh launch/run.env
#
# Needs gcloud, and jaxneg[tpu] in ~/jaxneg/.venv of every host. JAX finds the hosts by itself. To stop with a save:
#   gcloud compute tpus tpu-vm ssh NAME --worker=all --command='pkill -TERM -f "jaxneg train"'
set -euo pipefail
# shellcheck source=launch/run.env
source "${1:-launch/run.env}"

# A code that a person must mend (2) is told by the line before; gcloud passes no codes of several hosts on.
run="cd ~/jaxneg && export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 && exec .venv/bin/jaxneg train '$CONFIG'"
run+=" --workdir '$WORKDIR' --data.store '$STORE' $OPTIONS"
for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
    if gcloud compute tpus tpu-vm ssh "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" --worker=all --command="$run"; then
        exit 0
    fi
    echo "launch/tpu_pod.sh: a host ended, start $((attempt + 1)) of $RESTARTS follows in a minute" >&2
    sleep 60 # hosts that are left notice within 30 s
done
exit 1
