#!/bin/bash
# Run a command inside a Slurm job and requeue the job if, and only if, the command exits
# with 124. Exit with the command's exit code.
#
#   sanorm_jax/run/requeue.sh srun python -m sanorm_jax.main --config=...
#
# STAGE="datasets/movi_c datasets/movi_c-ENCODER" first copies these stores to STAGE_DIR, a
# local disk of each node, and lets the command read them there.
if [ -n "$STAGE" ]; then
    STAGE_DIR=${STAGE_DIR:-${TMPDIR:-/tmp}/sanorm_jax}
    # shellcheck disable=SC2086 # several folders
    srun --ntasks="${SLURM_JOB_NUM_NODES:-1}" --ntasks-per-node=1 \
        rsync --archive --copy-links $STAGE "$STAGE_DIR/" || exit
    set -- "$@" --config.data_dir="$STAGE_DIR"
fi

# Slurm may signal this shell in addition to the job step, or instead of it.
forward() {
    interrupted=yes
    [ -n "$!" ] || exit 143 # the command has not started
    kill -s "$1" "$!" 2>/dev/null
}
trap 'forward USR1' USR1
# A terminal sends SIGINT to the command as well. Forward SIGTERM, since a second SIGINT
# would end the run without saving.
trap 'forward TERM' TERM INT

"$@" &
command=$!
while :; do
    interrupted=
    wait "$command"
    code=$?
    # A signal interrupts `wait`, whose exit code is then not the command's.
    [ -n "$interrupted" ] || break
done

if [ "$code" -eq 124 ]; then
    # The ID of an array alone would requeue all of its tasks.
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    job=${job:-$SLURM_JOB_ID}
    scontrol requeue "$job" ||
        echo "error: job $job is not requeued; submit it again to resume" >&2
fi
exit "$code"
