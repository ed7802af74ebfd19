# The tasks of a step, one after the other; ends with the highest of their codes. A wave may be "preempted" or
# "cancelled": then SLURM tells the batch script too, and puts back what it preempts.
counted waves
wave=${codes[n < ${#codes[@]} ? n : ${#codes[@]} - 1]}
if [[ $wave == preempted || $wave == cancelled ]]; then
    kill -TERM "$PPID"
    [[ $wave == cancelled ]] || touch "$PLACE/requeued"
    wave="143 143"
fi
while [[ $1 != python ]]; do shift; done
read -ra ends <<<"$wave"
highest=0
for ((task = 0; task < ${#ends[@]}; task++)); do
    code=0
    HOST=$task CODE=${ends[task]} "$@" || code=$?
    ((code <= highest)) || highest=$code
done
exit "$highest"
