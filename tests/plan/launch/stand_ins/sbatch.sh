# SLURM's controller: starts the job, and again where it is put back into the queue.
grep -q '^#SBATCH --requeue$' "$1" || fail "a job that may not come back"
while :; do
    code=0
    SLURM_JOB_ID=17 bash "$1" || code=$?
    [[ -e $PLACE/requeued ]] || break
    rm "$PLACE/requeued"
done
exit "$code"
