# The part that all batch scripts here share; each sources it after its own #SBATCH lines and modules. One job is one
# worker on a survey: start as many as you like (an array), they claim shards from one run folder.
#
#   CONFIG     the survey's config file: the batch script's first argument
#   UNSEEING   the program                      [target/release/unseeing where sbatch was called]
#   LIBTORCH   a libtorch to use instead of the one that the program was built with
#   VENV       a Python environment to activate first (a venv that holds libtorch, on clusters)
#   MPI_TYPE   how srun starts MPI programs     [pmix]
#   MAX_STARTS a job that was requeued more often than this gives up [100]
#
# What happens when time runs out: Slurm sends USR1 to this shell (--signal=B:USR1@600), which passes it to srun and so to
# every rank; they save and end, rank 0 with 75 (stopped early, resumable); the job then requeues itself and goes on
# where it was. Other exit codes end the job: 0 all done, 3 done but some objects failed, else an error.
set -u

CONFIG=${1:-${CONFIG:-}}
[ -n "$CONFIG" ] || { echo "usage: sbatch SCRIPT CONFIG" >&2; exit 2; }
UNSEEING=${UNSEEING:-$SLURM_SUBMIT_DIR/target/release/unseeing}
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

[ -z "${VENV:-}" ] || . "$VENV/bin/activate"
[ -z "${LIBTORCH:-}" ] || export LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Since Slurm 22.05 srun does not take this over from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# Lustre has no use for HDF5's file locks, and some mounts refuse them.
export HDF5_USE_FILE_LOCKING=FALSE

echo "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST, $(date -u +%FT%TZ)"

# Never trap CONT: Slurm sends it too. A rank that died must not leave the others waiting for ever: srun ends them 60 s
# after the first one ended. They are not killed at once, since rank 0 ends with 75 while others may still be closing.
srun --mpi="${MPI_TYPE:-pmix}" --kill-on-bad-exit=0 --wait=60 "$UNSEEING" run "$CONFIG" &
step=$!
signalled=0
forward() { signalled=1; echo "job $job: asked to stop, $(date -u +%FT%TZ)"; kill -USR1 "$step" 2>/dev/null; }
trap forward USR1 TERM

# The first wait ends when a signal comes; the ranks are then still saving, so wait again for their own end.
while :; do
  signalled=0
  wait "$step"
  code=$?
  [ "$signalled" = 1 ] || break
done
trap - USR1 TERM

if [ "$code" = 75 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_STARTS:-100}" ]; then
    echo "job $job: resumable, but started ${MAX_STARTS:-100} times already: not requeued" >&2
  elif scontrol requeue "$job"; then
    echo "job $job: requeued"
    # Slurm ends this shell; ending by itself could come first and be taken for the job's end.
    sleep 60
  fi
fi
echo "job $job: exit code $code"
exit "$code"
