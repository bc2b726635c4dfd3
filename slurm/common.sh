# What the batch scripts here share; each sources it after its own #SBATCH lines. Workers: one job is one worker on a survey;
# start as many as you like (an array), they claim shards from one run folder.
#
#   prepare [MODULE...]   environment: modules, libtorch, the program; says in one line what is missing
#   work CONFIG [OPTION]  runs the survey on this job's tasks, forwards signals, requeues the job
#
#   UNSEEING    the program                      [target/release/unseeing where sbatch was called]
#   MODULES     modules to load besides those of the script (what the program was built with)
#   LIBTORCH    a libtorch to use instead of the one that the program was built with
#   VENV        a Python environment to activate first (a venv that holds libtorch, on clusters)
#   MPI_TYPE    how srun starts MPI programs     [pmix]
#   GPUS        GPUs that a node must have given [one for each task; with run.ranks_per_device fewer; 0 for runs on CPUs]
#   MAX_STARTS  a job that was started so often is not started again [100]
#   MAX_KILLED  nor one whose ranks were killed so often [5]
#
# What happens when time runs out: Slurm sends USR1 to this shell (--signal=B:USR1@600), which passes it to srun and so to
# every rank; they save and end, rank 0 with 75 (stopped early, resumable); the job then requeues itself and goes on
# where it was. So it does when a rank was killed (137: kill -9, or no memory left); when a node fails, Slurm does it. Other
# exit codes end the job: 0 all done, 3 done but some objects failed, else an error.
set -u

fail() { echo "unseeing: $*" >&2; exit 2; }

prepare() {
  local module said
  case ${SLURM_JOB_ACCOUNT:-} in xxx*) fail "account $SLURM_JOB_ACCOUNT is a placeholder: sbatch --account=YOURS@... (idrproj tells yours)" ;; esac
  UNSEEING=${UNSEEING:-${SLURM_SUBMIT_DIR:-$PWD}/target/release/unseeing}
  set -- "$@" ${MODULES:-}
  if [ $# -gt 0 ]; then
    type module >/dev/null 2>&1 || fail "there is no command 'module' on $(hostname -s), but modules are wanted: $*"
    said=$(mktemp) || fail "no temporary file can be made in ${TMPDIR:-/tmp}"
    module purge 2>/dev/null
    for module in "$@"; do
      # Old versions say what is wrong and return 0.
      if ! module load "$module" 2>"$said" || grep -qiE 'error|unable to locate' "$said"; then
        rm -f "$said"
        fail "module $module cannot be loaded: see 'module avail ${module%%/*}', and set MODULES to what the program was built with"
      fi
    done
    rm -f "$said"
  fi
  if [ -n "${VENV:-}" ]; then
    [ -r "$VENV/bin/activate" ] || fail "VENV=$VENV is no Python environment"
    . "$VENV/bin/activate"
  fi
  if [ -n "${LIBTORCH:-}" ]; then
    [ -d "$LIBTORCH/lib" ] || fail "LIBTORCH=$LIBTORCH has no folder lib"
    export LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  fi
  # Lustre has no use for HDF5's file locks, and some mounts refuse them.
  export HDF5_USE_FILE_LOCKING=FALSE
  [ -x "$UNSEEING" ] || fail "$UNSEEING: no program here (cargo build --release, or set UNSEEING)"
}

# One GPU for each task: every task sees all GPUs of its node and takes the one of its own number.
check_devices() {
  local wanted=${GPUS:-${SLURM_NTASKS_PER_NODE:-1}} given=${SLURM_GPUS_ON_NODE:-0}
  [ "$given" -ge "$wanted" ] ||
    fail "the job has $given GPUs on a node for $wanted tasks: sbatch --gres=gpu:$wanted (GPUS=0 for a run on CPUs)"
  if [ "$wanted" -gt 0 ] && type nvidia-smi >/dev/null 2>&1; then
    nvidia-smi -L >/dev/null 2>&1 || fail "nvidia-smi finds no working GPU on $(hostname -s): exclude the node (sbatch --exclude=$(hostname -s)), tell the support"
  fi
}

# Starts this job again, unless that was done often enough.
again() {
  if [ $((${SLURM_RESTART_COUNT:-0} + 1)) -ge "$max_starts" ]; then
    echo "job $job: resumable, but started $max_starts times already (MAX_STARTS): not requeued" >&2
  else
    # Said first, because Slurm ends this shell, at times before scontrol is back.
    echo "job $job: to be requeued ($1)"
    if scontrol requeue "$job"; then
      # Ending by itself could come first and be taken for the job's end.
      sleep 60
    else
      echo "job $job: could not be requeued: see above; sbatch it again to go on" >&2
    fi
  fi
}

work() {
  local config=${1:-${CONFIG:-}} step code signalled=0 killed max_starts=${MAX_STARTS:-100} max_killed=${MAX_KILLED:-5}
  [ -n "$config" ] || fail "usage: sbatch SCRIPT CONFIG [OPTION...]"
  [ $# = 0 ] || shift
  check_devices
  # An array's task is requeued by its own name: its job id alone may name the whole array.
  job=$SLURM_JOB_ID
  [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  # Slurm itself counts the starts, also those after a node has failed.
  [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_starts" ] || fail "job $job was started $max_starts times already (MAX_STARTS): given up"
  # Since Slurm 22.05 srun does not take this over from sbatch.
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

  echo "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST, $(date -u +%FT%TZ)"

  # Never trap CONT: Slurm sends it too. A rank that died must not leave the others waiting for ever: srun ends them 60 s
  # after the first one ended. They are not killed at once, since rank 0 ends with 75 while others may still be closing.
  srun --mpi="${MPI_TYPE:-pmix}" --kill-on-bad-exit=0 --wait=60 "$UNSEEING" "${COMMAND:-run}" "$config" "$@" &
  step=$!
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

  # A job's kills are counted beside its log, because this shell's memory does not survive a requeue.
  killed=${SLURM_SUBMIT_DIR:-$PWD}/.unseeing-$job.killed
  case $code in
    75) again "stopped early" ;;
    137)
      echo killed >>"$killed"
      if [ "$(wc -l <"$killed")" -lt "$max_killed" ]; then again "a rank was killed"
      else echo "job $job: ranks were killed $max_killed times (MAX_KILLED; is there memory enough?): not requeued" >&2; fi ;;
  esac
  rm -f "$killed"
  echo "job $job: exit code $code"
  exit "$code"
}
