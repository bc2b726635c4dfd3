#!/bin/bash
# A whole survey: plans it here, submits its workers, and a job that joins their products once all of them have ended.
#
#   slurm/submit.sh SCRIPT CONFIG [SBATCH-OPTION...]        for example
#   slurm/submit.sh slurm/jean-zay-a100.slurm survey.toml --account=xxx@a100 --array=0-9
#
# Call it from the project's folder. The options go to the workers; those of the joining job are in slurm/merge.slurm and
# MERGE_OPTIONS (on most clusters it needs an account and a partition without GPUs). UNSEEING names the program.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
script=$1 config=$2
shift 2
export UNSEEING=${UNSEEING:-$PWD/target/release/unseeing}
[ -x "$UNSEEING" ] || { echo "$UNSEEING: no program here (cargo build --release, or set UNSEEING)" >&2; exit 2; }
[ -r "$script" ] || { echo "$script: no such batch script" >&2; exit 2; }
"$UNSEEING" plan "$config"
workers=$(sbatch --parsable "$@" "$script" "$config")
workers=${workers%%;*}
# afterany: also when a worker has failed; a survey that is not whole then is an error of the joining.
merge=$(sbatch --parsable --dependency="afterany:$workers" ${MERGE_OPTIONS:-} slurm/merge.slurm "$config")
echo "workers $workers, then joining ${merge%%;*}; to look: $UNSEEING status $config"
