#!/bin/bash
# A whole survey: plans it here, submits its workers, and a job that joins their products once all of them have ended.
#
#   slurm/submit.sh SCRIPT CONFIG [SBATCH-OPTION...]        for example
#   slurm/submit.sh slurm/run_a100.slurm survey.toml --account=YOURS@a100 --array=0-9
#
# Call it from the project's folder. The options go to the workers; those of the joining job are in slurm/merge.slurm and
# MERGE_OPTIONS (on most clusters it needs an account and a partition without GPUs). ARCHIVE=1 submits slurm/archive.slurm
# behind it, with ARCHIVE_OPTIONS. UNSEEING names the program.
set -euo pipefail
fail() { echo "submit.sh: $*" >&2; exit 2; }
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
script=$1 config=$2
shift 2
export UNSEEING=${UNSEEING:-$PWD/target/release/unseeing}
type sbatch >/dev/null 2>&1 || fail "there is no sbatch here: call it on a machine that Slurm takes jobs from"
[ -x "$UNSEEING" ] || fail "$UNSEEING: no program here (cargo build --release, or set UNSEEING)"
[ -r "$script" ] || fail "$script: no such batch script"
if grep -q '^#SBATCH --account=xxx' "$script" && [ -z "${SBATCH_ACCOUNT:-}" ] && [[ " $* " != *" --account"* && " $* " != *" -A"* ]]; then
  fail "$script needs an account: add --account=YOURS@$(sed -n 's/^#SBATCH --account=xxx@//p' "$script") (idrproj tells yours)"
fi
"$UNSEEING" plan "$config"
workers=$(sbatch --parsable "$@" "$script" "$config")
workers=${workers%%;*}
# afterany: also when a worker has failed; a survey that is not whole then is an error of the joining.
merge=$(sbatch --parsable --dependency="afterany:$workers" ${MERGE_OPTIONS:-} slurm/merge.slurm "$config")
merge=${merge%%;*}
echo "workers $workers, then joining $merge; to look: $UNSEEING status $config"
if [ "${ARCHIVE:-0}" != 0 ]; then
  archive=$(sbatch --parsable --dependency="afterok:$merge" ${ARCHIVE_OPTIONS:-} slurm/archive.slurm "$config")
  echo "then archiving ${archive%%;*}"
fi
