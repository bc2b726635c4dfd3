# Everything from a fresh Debian or Ubuntu: `make demo`, `make test`. What is done already is not done again; the stamps
# in .stamps/ make that quick. LIBTORCH is used where it is set, and fetched into ~/.cache/unseeing where not.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup setup-tests build test chaos demo bench lint clean

help: ## Tells what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.stamps/system .stamps/tests .stamps/rust: .stamps/%: tools/setup.sh
	@tools/setup.sh $*
	@mkdir -p .stamps && touch $@

setup: .stamps/system .stamps/rust ## System packages, Rust, libtorch
	@tools/setup.sh libtorch

setup-tests: setup .stamps/tests ## What the tests need besides: Slurm, a Python with h5py, astropy and statmorph
	@tools/setup.sh python >/dev/null

build: setup ## The program: target/release/unseeing
	cargo build --release --locked

test: setup-tests ## All tests, MPI, crash and Slurm ones among them; needs ../shared for some
	UNSEEING_PYTHON=$$(tools/setup.sh python) cargo test --release --locked --no-fail-fast -- $(TESTS)

N = 200
SEED = 1
chaos: setup-tests ## N kills (200) at random moments, of SEED (1); each survey must end with the content of an undisturbed one
	UNSEEING_CHAOS=$(N) UNSEEING_CHAOS_SEED=$(SEED) cargo test --release --locked -- crash_at_random_moments --nocapture

demo: build ## A simulated survey, sampled by two ranks, and its pictures in demo/
	@tools/demo.sh

bench: build ## Timings as ratios; UNSEEING_TORCH_PYTHON names a Python with torch, to compare the network with
	cargo bench --locked

lint: setup ## Formatting, and clippy without warnings
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings

clean: ## Removes what was built here (not the downloads in ~/.cache/unseeing)
	rm -rf target demo .stamps
