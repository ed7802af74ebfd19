cd "$(dirname "$0")"
pause=${LAUNCH_PAUSE:-30} # seconds between two looks
patience=20               # looks in a row at which the cluster may not answer

say() {
    echo "launch: $*" >&2
}
job() {
    ray job "$1" "${address[@]}" "${@:2}"
}
submit() { # under a name of its own, as Ray takes none twice
    id=$name-$(date +%s)-$lost
    job submit --submission-id="$id" --runtime-env-json="$environment" --no-wait -- "${make[@]}" || return
    echo "$id" >job
}
known() { # whether the cluster has the job that was submitted last; fails with 2 where it does not answer
    local said
    [[ -e job ]] || return 1
    id=$(cat job)
    said=$(job status "$id" 2>&1) && return
    [[ $said != *"does not exist"* ]] || return 1
    echo "$said" >&2
    return 2
}
watch() {
    local said code now before="" away=0 lost=0
    known || {
        code=$?
        [[ $code == 1 ]] && submit
    } || {
        say "the job was refused: mend what the line before says"
        exit 2
    }
    while :; do
        if said=$(job status "$id" 2>&1); then
            away=0
            # Ray colours what no terminal reads.
            now=$(sed -n -e $'s/\e\\[[0-9;]*m//g' -e "s/^.*\(Job '$id' \|Status for job '$id': \)//p" <<<"$said" |
                head -n 1)
            case $now in
            succeeded) exit 0 ;;
            "was stopped") exit 143 ;;
            failed)
                job logs "$id" | tail -n 40 >&2 || true
                code=$(sed -n 's/^.*failed with exit code \([0-9]*\).*$/\1/p' <<<"$said" | head -n 1)
                [[ $code != 2 ]] || {
                    say "exit code 2: a person has to mend something, and a line of the log says what"
                    exit 2
                }
                # The job itself has all workers start again; without a code it was lost with its machine.
                if [[ -n $code ]] || ((lost >= restarts)); then
                    say "failed after its restarts, last with ${code:-a lost job}"
                    exit "${code:-75}"
                fi
                lost=$((lost + 1))
                say "the job is lost: restart $lost of $restarts"
                submit || true # else it is looked for in vain, and told
                ;;
            *)
                [[ $now == "$before" ]] || say "the job is $now"
                before=$now
                ;;
            esac
        elif ((++away > patience)); then
            say "the cluster does not answer; the job goes on without this script"
            exit 75
        fi
        sleep "$pause"
    done
}

case ${1:-watch} in
watch) watch ;;
log) job logs "$(cat job)" ;;
stop) job stop "$(cat job)" ;;
delete)
    job delete "$(cat job)"
    rm job
    ;;
*)
    say "no $1: watch (by itself), log, stop or delete"
    exit 2
    ;;
esac
