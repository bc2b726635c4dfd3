#!/usr/bin/env bash
# The demonstration: a small survey with known truth, two ranks, 64 samples an object, and a picture of each object.
set -euo pipefail
cd "$(dirname "$0")/.."
unseeing=target/release/unseeing

# Open MPI refuses root unless told twice; it also counts cores, and in containers may not copy between processes.
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none

rm -rf demo
"$unseeing" simulate demo --objects 3 --depth wide --redshift 0.4,0.8
mpirun -n 2 "$unseeing" run demo/config.toml
"$unseeing" report demo/run --truth demo/truth.hdf5
echo
echo "One picture for each object (observation, posterior mean, standard deviation, variance ratio, truth):"
find demo -name '*.png' | sort | sed 's/^/  /'
