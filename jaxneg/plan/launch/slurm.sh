ended=0
trap 'ended=1' TERM # of SLURM: what it preempts it puts back into the queue itself, what a person cancels stays out
lost="$name-$SLURM_JOB_ID.lost" # how often all have been started again, beside the log

again() {
    [[ $ended == 0 ]] || exit "$code"
    exec scontrol requeue "$SLURM_JOB_ID"
}

((${#environment[@]} == 0)) || export "${environment[@]}"
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
code=0
# Signals reach every process of the step. Every task sees all GPUs of its node and takes its own. srun ends with the
# highest code of all tasks, so that one to be mended by a person must be higher than any other.
srun --kill-on-bad-exit=1 "${inside[@]}" python -m jaxneg.plan.launch.process --told-all --mended 254 "${run[@]}" ||
    code=$?
case $code in
254)
    echo "launch: exit code 2: a person has to mend something, and a line above says what" >&2
    rm -f "$lost"
    exit 2
    ;;
0 | 130)
    rm -f "$lost"
    exit "$code"
    ;;
143) again ;; # saved before the time limit: not one of the restarts
esac
count=$(cat "$lost" 2>/dev/null || echo 0)
if ((count >= restarts)); then
    echo "launch: ended with $code after $restarts restarts" >&2
    rm -f "$lost"
    exit "$code"
fi
echo $((count + 1)) >"$lost"
echo "launch: ended with $code: restart $((count + 1)) of $restarts" >&2
again
