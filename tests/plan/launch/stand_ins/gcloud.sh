# Cloud TPU: a request whose states the play gives, one at each look, and hosts that are directories.
request=$PLACE/request machines=$PLACE/hosts
per_node() { # sets first and last: hosts of the node in $1
    local node=0
    ((nodes == 1)) || node=${1##*-}
    first=$((node * hosts)) last=$((node * hosts + hosts - 1))
}
case "$*" in
"compute tpus queued-resources create"*)
    counted creations
    ! among "$n" "${refused[@]}" || {
        echo "ERROR: quota" >&2
        exit 1
    }
    [[ ! -e $request ]] || fail "asked for twice"
    touch "$request"
    ;;
"compute tpus queued-resources list"*)
    counted lists
    ! among "$n" "${silent[@]}" || {
        echo "ERROR: (gcloud) token expired" >&2
        exit 1
    }
    [[ -e $request ]] || exit 0
    counted looks
    ((n != cut)) || kill 0 # as where the terminal is closed
    state=${states[n < ${#states[@]} ? n : ${#states[@]} - 1]}
    if [[ $state != ACTIVE ]]; then
        rm -rf "$machines"
    elif [[ ! -e $machines ]]; then
        for ((h = 0; h < nodes * hosts; h++)); do mkdir -p "$machines/$h"; done
    fi
    echo "$state"
    ;;
"compute tpus queued-resources delete"*--force*)
    counted deletions
    ! among "$n" "${stuck[@]}" || exit 1
    rm "$request" || fail "nothing to give back"
    rm -rf "$machines"
    ;;
"compute tpus tpu-vm "*--worker=all*)
    counted reached
    worst=0
    if [[ ! -e $machines ]] || among "$n" "${unreached[@]}"; then
        echo "ssh: connect to host: Connection timed out" >&2
        exit 255
    fi
    if [[ $4 == scp ]]; then
        per_node "${6%%:*}"
    else
        per_node "$5"
    fi
    for ((h = first; h <= last; h++)); do
        if [[ $4 == scp ]]; then
            cp "$5" "$machines/$h/${6#*:}"
        else
            for word; do [[ $word != --command=* ]] || command=${word#--command=}; done
            (cd "$machines/$h" && HOST=$h bash -c "$command") || worst=$?
        fi
    done
    exit "$worst"
    ;;
"auth configure-docker us-docker.pkg.dev"*) ;;
*) fail "no such call: $*" ;;
esac
