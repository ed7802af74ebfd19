#!/usr/bin/env bash
# Trains on GPUs under SLURM, one process per GPU: JAX takes the address, the numbers and the GPU from SLURM's variables.
#
#   sbatch --nodes=4 launch/slurm.sh launch/run.env
#
# Two minutes before the time limit, and on preemption, the processes get SIGTERM, save and end with 143; then, and when
# one is lost, the job goes back into the queue and continues.
#SBATCH --job-name=jaxneg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
# shellcheck source=launch/run.env
source "${1:-launch/run.env}"

export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
read -ra options <<<"$OPTIONS"
code=0
# Signals of --signal go to the steps of srun, not to this shell. Every task sees all GPUs of its node and takes its own.
srun --kill-on-bad-exit=1 jaxneg train "$CONFIG" --workdir "$WORKDIR" --data.store "$STORE" "${options[@]}" || code=$?
case $code in
0 | 2 | 130) exit "$code" ;; # done, to be mended by a person, interrupted: see jaxneg --help
esac
if ((${SLURM_RESTART_COUNT:-0} < RESTARTS)); then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
