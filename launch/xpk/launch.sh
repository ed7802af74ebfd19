#!/usr/bin/env bash
# Trains jaxneg-mine on v5e:4x4: written by jaxneg launch xpk, to be written anew by it.
#
#   launch.sh          starts the run and watches it; ends as the run does
#   launch.sh log      the last lines of every pod
#   launch.sh stop     has the run save and end, and deletes its JobSet
#
# The cluster starts all pods again where one is lost: training does not need this script, which ended and
# started again goes on watching.
# Needs xpk, kubectl, and storage that xpk storage attach has put below --workdir.
set -euo pipefail

name=jaxneg-mine
namespace=default
make=(
    xpk
    workload
    create
    --workload=jaxneg-mine
    --project=my-project
    --zone=us-west4-a
    --cluster=my-cluster
    --tpu-type=v5litepod-16
    --num-slices=1
    --docker-image=us-docker.pkg.dev/my-project/jaxneg/tpu
    --max-restarts=10
    '--restart-on-exit-codes=1,75'
    --termination-grace-period-seconds=120
    '--command=exec python -m jaxneg.plan.launch.process train gs://music/mine.py --workdir /data/runs/mine --data.store gs://music/stores/mine'
)

cd "$(dirname "$0")"
pause=${LAUNCH_PAUSE:-30} # seconds between two looks
patience=20               # looks in a row at which the cluster may not answer
mine=(--namespace="$namespace" --selector="jobset.sigs.k8s.io/jobset-name=$name")

say() {
    echo "launch: $*" >&2
}
jobset() {
    kubectl "$1" jobset "$name" --namespace="$namespace" "${@:2}"
}
log() {
    kubectl logs "${mine[@]}" --all-containers --prefix --tail=40 --max-log-requests=256
}
failed() { # ends with the exit code that tells most of the pods that are left
    local code worst=1
    log >&2 || true
    for code in $(kubectl get pods "${mine[@]}" \
        --output=jsonpath='{.items[*].status.containerStatuses[*].state.terminated.exitCode}'); do
        if [[ $code == 2 ]]; then
            say "exit code 2: a person has to mend something, and a line of the log says what"
            exit 2
        fi
        [[ $code == 0 ]] || worst=$code
    done
    say "failed after its restarts, last with $worst"
    exit "$worst"
}
watch() {
    local now before="" away=0
    jobset get >/dev/null 2>&1 || "${make[@]}" || {
        say "it was refused: mend what the line before says"
        exit 2
    }
    while :; do
        if now=$(jobset get --output=jsonpath='{.status.conditions[?(@.status=="True")].type} {.status.restarts}'); then
            away=0
            [[ $now == "$before" ]] || say "state and restarts: $now"
            before=$now
            case $now in
            *Completed*) exit 0 ;;
            *Failed*) failed ;;
            esac
        elif ((++away > patience)); then
            say "the cluster does not answer; the run goes on without this script"
            exit 75
        fi
        sleep "$pause"
    done
}

case ${1:-watch} in
watch) watch ;;
log) log ;;
stop) jobset delete ;;
*)
    say "no $1: watch (by itself), log or stop"
    exit 2
    ;;
esac
