#!/bin/bash
# Runs a command inside a Slurm job and puts the job back into the queue if it exits
# with 124, and only then; leaves with the command's exit code.
#
#   scripts/slurm/requeue.sh srun python -m sanorm_jax.main --config=...
#
# STAGE="datasets/movi_c datasets/movi_c-ENCODER" copies these stores to STAGE_DIR, on
# the disk of each node, and lets the command read them there.
if [ -n "$STAGE" ]; then
    STAGE_DIR=${STAGE_DIR:-${TMPDIR:-/tmp}/sanorm_jax}
    # shellcheck disable=SC2086 # several folders
    srun --ntasks="${SLURM_JOB_NUM_NODES:-1}" --ntasks-per-node=1 \
        rsync --archive --copy-links $STAGE "$STAGE_DIR/" || exit
    set -- "$@" --config.data_dir="$STAGE_DIR"
fi

# Slurm may signal this shell beside the job step, or instead of it.
forward() {
    interrupted=yes
    [ -n "$!" ] || exit 143 # nothing runs yet
    kill -s "$1" "$!" 2>/dev/null
}
trap 'forward USR1' USR1
# A terminal sends SIGINT to the command too, which would take this for a second one.
trap 'forward TERM' TERM INT

"$@" &
command=$!
while :; do
    interrupted=
    wait "$command"
    code=$?
    # A signal ends `wait` early, with a code that is not the command's.
    [ -n "$interrupted" ] || break
done

if [ "$code" -eq 124 ]; then
    # An array's id alone would mean all of its tasks.
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    job=${job:-$SLURM_JOB_ID}
    scontrol requeue "$job" ||
        echo "error: job $job is not requeued; submit it again to go on" >&2
fi
exit "$code"
