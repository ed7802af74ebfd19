# A cluster with the controllers of Jobs and JobSets: at each look at the set a wave of its pods runs to its end.
#
# states: of each look, whether there is room (run) or not (wait); codes: of each wave, the exit codes of its pods, with
# D where the pod was evicted or preempted. limit and policy are those of the set: "In" or "NotIn", and codes.
set=$PLACE/set
controlled() { # one step of both controllers
    local code evicted=0 lost=0 mend=0 known pods=()
    counted waves
    read -ra ends <<<"${codes[n < ${#codes[@]} ? n : ${#codes[@]} - 1]}"
    for ((h = 0; h < hosts; h++)); do
        code=0
        HOST=$h CODE=${ends[h]%D} "${pod[@]}" || code=$?
        pods+=("$code")
        [[ $code != 0 ]] || continue
        known=no
        ! among "$code" "${policy[@]:1}" || known=yes
        if [[ ${policy[0]} == In && $known == yes ]] || [[ ${policy[0]} == NotIn && $known == no ]]; then
            mend=1
        elif [[ ${ends[h]} == *D && $disruption == Ignore ]]; then
            evicted=1
        else
            lost=1
        fi
    done
    read -r restarts <"$set/restarts"
    echo "${pods[*]}" >"$set/pods"
    if ((mend)); then
        echo Failed >"$set/condition" # by the rule of the set, whatever else its Job says
    elif ((lost)); then
        if ((restarts < limit)); then
            echo $((restarts + 1)) >"$set/restarts"
        else
            echo Failed >"$set/condition"
        fi
    elif ((!evicted)); then
        echo Completed >"$set/condition"
    fi
}
case "$*" in
"apply --filename=jobset.yaml")
    [[ -s jobset.yaml && ! -e $set ]] || fail "nothing to apply, or applied twice"
    ! ((denied)) || {
        echo 'error: no matches for kind "JobSet"' >&2
        exit 1
    }
    mkdir "$set"
    echo 0 >"$set/restarts"
    ;;
"get jobset "*--output=*)
    counted looks
    ! among "$n" "${unreached[@]}" || exit 1
    ((n != cut)) || kill 0
    [[ -e $set/condition || ${states[n < ${#states[@]} ? n : ${#states[@]} - 1]} == wait ]] || controlled
    echo "$(cat "$set/condition" 2>/dev/null || true) $(cat "$set/restarts")"
    ;;
"get jobset "*) [[ -e $set ]] || exit 1 ;;
"get pods "*) cat "$set/pods" ;;
"delete jobset "*) rm -r "$set" ;;
"logs "*) echo "the last lines of all pods" ;;
*) fail "no such call: $*" ;;
esac
