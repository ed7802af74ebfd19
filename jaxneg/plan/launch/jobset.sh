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
