#!/usr/bin/env bash
# Gets what the build and the tests need, on Debian or Ubuntu. Each part does nothing when its work is done already.
#
#   tools/setup.sh system     system packages for the build (apt, as root or through sudo)
#   tools/setup.sh tests      system packages for the tests: a Slurm to run the batch scripts on, a browser where there is one
#   tools/setup.sh rust       the Rust toolchain, where there is none or one that is too old
#   tools/setup.sh libtorch   libtorch (tools/libtorch.sh), and .cargo/config.toml that tells cargo where it is
#   tools/setup.sh python     a Python with h5py, astropy and statmorph, which the tests read products with; prints its path
set -euo pipefail
cd "$(dirname "$0")/.."

rust=1.95
build_packages=(build-essential pkg-config libopenmpi-dev openmpi-bin libclang-dev libhdf5-dev libcfitsio-dev python3 python3-venv
  ca-certificates curl)
test_packages=(munge slurmctld slurmd slurm-client)
# A browser that clicks on the report's page. Ubuntu has it as a snap only, which a container cannot run: there it is done without.
browser=chromium

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
cache() { echo "${UNSEEING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/unseeing}"; }

apt_install() {
  local package missing=() sudo=()
  if ! command -v apt-get >/dev/null; then
    say "no apt-get here: what is needed is a C++20 compiler, pkg-config, an MPI with its headers (mpicc), libclang, HDF5,"
    say "cfitsio, python3 with venv (for the tests also Slurm). Going on, as if they were there."
    return 0
  fi
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "not root and no sudo: ask for these packages: ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing ${missing[*]}"
  # A package list that is there already may do; if not, fetch a new one.
  install() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
  install >/dev/null 2>&1 || { "${sudo[@]}" apt-get update -qq && install; } >&2 ||
    die "apt could not install: ${missing[*]}"
}

install_browser() {
  command -v apt-get >/dev/null && ! command -v "$browser" >/dev/null || return 0
  # Not through a pipe: what a reader leaves unread would count as a failure, and the browser as not to be had.
  [[ $(apt-cache policy "$browser" 2>/dev/null) =~ Candidate:\ [^\(] ]] || return 0
  (apt_install "$browser") || say "no $browser here: the test that clicks on a report's page will be skipped"
}

rust_is_new_enough() {
  local found
  found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ -n "$found" ] && [ "$(printf '%s\n' "$rust" "$found" | sort -V | head -1)" = "$rust" ]
}

rust_toolchain() {
  export PATH=$HOME/.cargo/bin:$PATH
  ! rust_is_new_enough || return 0
  local installer
  if ! command -v rustup >/dev/null; then
    say "no Rust $rust or newer here (found: $(cargo --version 2>/dev/null || echo none)): getting it with rustup"
    installer=$(mktemp)
    if ! curl --proto '=https' --tlsv1.2 -sSf --connect-timeout 20 https://sh.rustup.rs -o "$installer" ||
      ! sh "$installer" -y --no-modify-path --profile minimal --default-toolchain none >&2; then
      rm -f "$installer"
      die "rustup cannot be reached, and the distribution's own Rust is too old. Install Rust $rust or newer in another way
       (https://rustup.rs has offline installers), put cargo on the PATH, and start again."
    fi
    rm -f "$installer"
  fi
  rustup toolchain install "$rust" --profile minimal --component clippy --component rustfmt >&2 &&
    rustup default "$rust" >&2 ||
    die "rustup could not fetch the Rust $rust toolchain: see above. With cargo $rust or newer on the PATH none is fetched."
  rust_is_new_enough || die "cargo is still older than $rust: $(command -v cargo || echo none)"
}

libtorch() {
  local folder text
  folder=$(tools/libtorch.sh)
  # A LIBTORCH in the environment comes before this one. Written only when it changes, else cargo builds anew.
  text=$(printf '[env]\nLIBTORCH = "%s"' "$folder")
  [ "$(cat .cargo/config.toml 2>/dev/null)" != "$text" ] || return 0
  mkdir -p .cargo
  echo "$text" >.cargo/config.toml
}

python() {
  local venv packages=(h5py numpy astropy statmorph)
  if [ -n "${UNSEEING_PYTHON:-}" ]; then echo "$UNSEEING_PYTHON"; return 0; fi
  venv=$(cache)/python
  # The stamp lists what was installed, so that a longer list is noticed.
  if [ "$(cat "$venv/.complete" 2>/dev/null)" != "${packages[*]}" ]; then
    say "making a Python environment with ${packages[*]}"
    mkdir -p "$(dirname "$venv")"
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv" >&2 || die "python3 cannot make a virtual environment: install python3-venv"
    "$venv/bin/pip" install --quiet "${packages[@]}" >&2 || die "pip could not fetch ${packages[*]}: see above"
    echo "${packages[*]}" >"$venv/.complete"
  fi
  echo "$venv/bin/python"
}

case ${1:-} in
  system) apt_install "${build_packages[@]}" ;;
  tests) apt_install "${test_packages[@]}" && install_browser ;;
  rust) rust_toolchain ;;
  libtorch) libtorch ;;
  python) python ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
