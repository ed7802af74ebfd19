# The jobs of a Ray cluster: at each look one has the state that the play gives, or has ended with an exit code.
case $2 in
submit)
    ! ((denied)) || {
        echo "no resources" >&2
        exit 1
    }
    for word; do [[ $word != --submission-id=* ]] || id=${word#*=}; done
    echo "$id" >"$PLACE/job"
    ;;
status)
    counted looks
    ! among "$n" "${unreached[@]}" || {
        echo "ConnectionError: connection refused" >&2
        exit 1
    }
    id=${!#}
    [[ -e $PLACE/job && $(<"$PLACE/job") == "$id" ]] || {
        echo "RuntimeError: Job $id does not exist" >&2
        exit 1
    }
    ((n != cut)) || kill 0
    counted states
    state=${states[n < ${#states[@]} ? n : ${#states[@]} - 1]}
    case $state in
    0) says="Job '$id' succeeded" ;;
    stopped) says="Job '$id' was stopped" ;;
    *[!0-9]* | "") says="Status for job '$id': $state" ;;
    *) says="Job '$id' failed" ;;
    esac
    [[ $state != lost ]] || says="Job '$id' failed"
    printf '2026-01-01 00:00:00,000 INFO cli.py:1 -- \e[36m%s\e[39m\n' "$says" # as Ray 2.60 has it
    [[ $state != lost ]] || echo "Status message: Job supervisor actor died: node failure."
    [[ $says != *failed ]] || [[ $state == lost ]] ||
        printf "Status message: Job entrypoint command failed with exit code %s, last available logs:\n%s\n" \
            "$state" "Job 'other' succeeded; it failed with exit code 2"
    ;;
logs) echo "the log of the job" ;;
stop) ;;
delete) [[ -e $PLACE/job ]] || fail "nothing to delete" ;;
*) fail "no such call: $*" ;;
esac
