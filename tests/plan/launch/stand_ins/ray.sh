# The jobs of a Ray cluster: at each look one has the state that the play gives, or has ended with an exit code.
case $2 in
submit)
    ! ((denied)) || {
        echo "no resources" >&2
        exit 1
    }
    [[ ! -e $PLACE/job ]] || fail "there is such a job"
    touch "$PLACE/job"
    ;;
status)
    counted looks
    ! among "$n" "${unreached[@]}" || {
        echo "ConnectionError: connection refused" >&2
        exit 1
    }
    [[ -e $PLACE/job ]] || {
        echo "RuntimeError: Job mine does not exist" >&2
        exit 1
    }
    ((n != cut)) || kill 0
    counted states
    state=${states[n < ${#states[@]} ? n : ${#states[@]} - 1]}
    case $state in
    0) echo "Job 'mine' succeeded" ;;
    stopped) echo "Job 'mine' was stopped" ;;
    lost) printf "Job 'mine' failed\nStatus message: Job supervisor actor died: node failure.\n" ;;
    [0-9]*) printf "Job 'mine' failed\nStatus message: Job entrypoint command failed with exit code %s, last\n" "$state" ;;
    *) echo "Status for job 'mine': $state" ;;
    esac
    ;;
logs) echo "the log of the job" ;;
stop) ;;
delete) rm "$PLACE/job" ;;
*) fail "no such call: $*" ;;
esac
