#!/usr/bin/env bash
# Gets a lean CPU libtorch 2.13.0 from the Python package registry (about 540 MB down, 1.2 GB on disk) and prints the
# folder to use as LIBTORCH. Does nothing where LIBTORCH is set already, or where the folder is complete.
#
# The wheels hold more than a CPU program needs, and torch-sys links CUDA when it sees it. So LIBTORCH is a *view*:
# include/ and lib/ with links to the libraries that are wanted. build.rs follows the links to set the rpath.
set -euo pipefail

if [ -n "${LIBTORCH:-}" ]; then echo "$LIBTORCH"; exit 0; fi
version=2.13.0
home=${UNSEEING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/unseeing}
wheels=$home/torch-$version view=$home/libtorch-$version
if [ -f "$view/.complete" ]; then echo "$view"; exit 0; fi

mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
if [ ! -f "$view/.complete" ]; then
  if [ ! -f "$wheels/.complete" ]; then
    rm -rf "$wheels"
    echo "libtorch: fetching torch $version (540 MB)" >&2
    python3 -m venv "$home/pip-venv" >&2
    "$home/pip-venv/bin/pip" install --quiet --no-deps --target "$wheels" \
      "torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 >&2
    touch "$wheels/.complete"
  fi
  rm -rf "$view"
  mkdir -p "$view/lib"
  ln -s "$wheels/torch/include" "$view/include"
  for lib in "$wheels"/torch/lib/{libtorch_cpu.so,libc10.so,libgomp*}; do ln -s "$lib" "$view/lib/"; done
  ln -s libtorch_cpu.so "$view/lib/libtorch.so"
  echo "$version" >"$view/build-version"
  touch "$view/.complete"
fi
echo "$view"
