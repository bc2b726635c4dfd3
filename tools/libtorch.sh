#!/usr/bin/env bash
# Gets a lean CPU libtorch 2.13.0 from the Python package registry (about 540 MB down, 1.2 GB on disk) and prints the
# folder to use as LIBTORCH. Does nothing where LIBTORCH is set already, or where the folder is complete.
#
# The wheels hold more than a CPU program needs, and torch-sys links CUDA when it sees it. So LIBTORCH is a *view*:
# include/ and lib/ with links to the libraries that are wanted. build.rs follows the links to set the rpath.
set -euo pipefail

version=2.13.0
die() { echo "libtorch: $*" >&2; exit 1; }

if [ -n "${LIBTORCH:-}" ]; then
  [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || die "LIBTORCH=$LIBTORCH has no lib/libtorch_cpu.so: name a libtorch $version, or unset it"
  found=$(cut -d+ -f1 "$LIBTORCH/build-version" 2>/dev/null || true)
  [ -z "$found" ] || [ "$found" = "$version" ] || die "LIBTORCH=$LIBTORCH is version $found: this program needs $version"
  echo "$LIBTORCH"
  exit 0
fi

home=${UNSEEING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/unseeing}
wheels=$home/torch-$version view=$home/libtorch-$version
if [ -f "$view/.complete" ] && [ -e "$view/lib/libtorch_cpu.so" ]; then echo "$view"; exit 0; fi

mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
if [ ! -f "$wheels/.complete" ] || [ ! -e "$wheels/torch/lib/libtorch_cpu.so" ]; then
  free=$(df -Pk "$home" | awk 'NR == 2 {print int($4 / 1024)}')
  [ "$free" -ge 3000 ] || die "$home has $free MB free, 3000 are needed: set UNSEEING_CACHE to a folder on a larger disk"
  rm -rf "$wheels" "$home/pip-venv"
  echo "libtorch: fetching torch $version (540 MB)" >&2
  python3 -m venv "$home/pip-venv" >&2 || die "python3 cannot make a virtual environment: install python3-venv"
  TMPDIR=${TMPDIR:-$home} "$home/pip-venv/bin/pip" install --quiet --no-deps --no-cache-dir --target "$wheels" \
    "torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 >&2 9>&- ||
    die "pip could not fetch torch $version: see above; without network, set LIBTORCH to a libtorch $version of your own"
  rm -rf "$home/pip-venv"
  touch "$wheels/.complete"
fi
rm -rf "$view"
mkdir -p "$view/lib"
ln -s "$wheels/torch/include" "$view/include"
for lib in "$wheels"/torch/lib/{libtorch_cpu.so,libc10.so,libgomp*}; do ln -s "$lib" "$view/lib/"; done
ln -s libtorch_cpu.so "$view/lib/libtorch.so"
echo "$version" >"$view/build-version"
touch "$view/.complete"
echo "$view"
