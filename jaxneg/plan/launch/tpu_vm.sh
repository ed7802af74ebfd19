cd "$(dirname "$0")"
pause=${LAUNCH_PAUSE:-30} # seconds between two looks
patience=6                # looks, for hosts to follow one that has ended, or to be reached
silence=20                # looks in a row at which gcloud may fail
at=(--project="$project" --zone="$zone" --quiet)

say() {
    echo "launch: $*" >&2
}
queued() {
    gcloud compute tpus queued-resources "$@" "${at[@]}"
}
state() { # of the request; nothing where there is none
    queued list --filter="name~/$name\$" --format='value(state.state)'
}
on_hosts() { # every host of every slice; a new one has no script yet
    local node does="if test -e $name-host.sh; then bash $name-host.sh $1; else echo host absent 0; fi"
    for node in "${nodes[@]}"; do
        gcloud compute tpus tpu-vm ssh "$node" --worker=all --command="$does" "${at[@]}"
    done
}
start() {
    local node
    for node in "${nodes[@]}"; do
        gcloud compute tpus tpu-vm scp host.sh "$node:$name-host.sh" --worker=all "${at[@]}" || return
    done
    on_hosts start >/dev/null
}
give_back() {
    [[ -z $(state) ]] || queued delete "$name" --force
}
leave() { # the run has ended with this code
    [[ $1 == 0 ]] || on_hosts log >&2 || true
    if [[ -n ${LAUNCH_KEEP:-} ]]; then
        say "ended with $1; the slice stays: launch.sh delete gives it back"
    else
        say "ended with $1; the slice is given back"
        give_back || say "it was not: launch.sh delete does it"
    fi
    exit "$1"
}
again() { # $1: what happened; $2: exit code if it was once too often
    if ((started >= restarts)); then
        say "$1, after $restarts restarts"
        leave "$2"
    fi
    started=$((started + 1))
    say "$1: restart $started of $restarts"
}
look() { # sets hosts and codes by what the hosts say; fails where one is not reached
    local said word code
    running=0 absent=0 stopped=0 codes=()
    said=$(on_hosts state) || return
    while read -r word code; do
        case $word in
        exited | dead) codes+=("$code") ;;
        absent) absent=$((absent + 1)) ;;
        stopped) stopped=$((stopped + 1)) ;;
        *) running=$((running + 1)) ;;
        esac
    done < <(sed -n 's/^.*host \([a-z]*\) \([0-9]*\).*$/\1 \2/p' <<<"$said")
    ((running + absent + stopped + ${#codes[@]} == hosts))
}
judge() { # what is to be done about hosts that were seen
    local code worst=0
    for code in "${codes[@]}"; do
        [[ $code == 2 ]] && {
            say "exit code 2: a person has to mend something, and a line of the log says what"
            on_hosts end >/dev/null || true
            leave 2
        }
        [[ $code == 130 ]] && leave 130
        [[ $code == 0 ]] || worst=$code
    done
    if ((stopped)); then
        ((stopped < hosts)) || leave 143
    elif ((absent == hosts)); then
        say "starting on $hosts hosts"
        start || again "the hosts could not start it" 75
    elif ((${#codes[@]} == hosts)); then
        ((worst)) || leave 0
        again "ended with $worst" "$worst"
        start || true
        ending=0
    elif ((worst || absent)); then
        ending=$((ending + 1))
        if ((ending > patience)); then
            on_hosts end >/dev/null || true
            ((worst)) || {
                again "a host is new" 75
                start || true
            }
            ending=0
        fi
    fi
}
watch() {
    local now before="" away=0 granted=0
    started=0 unreached=0 ending=0
    while :; do
        if now=$(state); then
            away=0
        elif ((++away > silence)); then
            say "gcloud does not answer; training goes on without this script"
            exit 75
        else
            now=unknown # gcloud has said why
        fi
        [[ $now == "$before" ]] || say "the slice is ${now:-not there}"
        case $now in
        "")
            if queued create "$name" "${asked[@]}"; then
                granted=1
            else
                ((granted)) || {
                    say "the slice cannot be asked for: mend what gcloud says"
                    exit 2
                }
                again "the slice cannot be asked for" 75
            fi
            unreached=0 ending=0
            ;;
        ACTIVE)
            granted=1
            if look; then
                unreached=0
                judge
            elif ((++unreached > patience)); then
                again "hosts are not reached" 75
                give_back || true
                unreached=0
            fi
            ;;
        SUSPENDED) # taken away, as spot may be
            say "the slice was taken away: asking for another"
            give_back || true # else at the next look
            ;;
        FAILED)
            again "the request failed" 75
            give_back || true
            ;;
        esac
        before=${now:-none}
        sleep "$pause"
    done
}

case ${1:-watch} in
watch) watch ;;
log) on_hosts log ;;
stop) on_hosts stop ;;
delete) give_back ;;
*)
    say "no $1: watch (by itself), log, stop or delete"
    exit 2
    ;;
esac
