# Everything below makes what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := $(VENV)/.demo
STAMP  := $(VENV)/.installed
# One thread per worker: two one-thread processes beat one two-thread process by 1.4x here.
export OMP_NUM_THREADS ?= 1
# Where an environment keeps Python from storing compiled modules, every process that tests start would compile all anew.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help

# Two steps into one .venv: what `make demo` needs, then the other extras and the tools.
$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "python >= 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[train,report]'
	@touch $@

$(STAMP): $(DEMO)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP)  ## make .venv with all extras and the tools, and no more
.PHONY: install

demo: $(DEMO)  ## the main job: sweep, fit, PDF, answer (about five minutes on 2 cores)
	$(BIN)/python -m sweep -m +experiment=demo
	$(BIN)/isoflop fit runs/demo --out reports/demo
	$(BIN)/isoflop query 3e13 --fit reports/demo
.PHONY: demo

test: $(STAMP)  ## the default test suite
	$(BIN)/python -m pytest -n 2
.PHONY: test

test-slow: $(STAMP)  ## tests of minutes: real sweeps, coverage, million-row checks
	$(BIN)/python -m pytest -n 2 -m slow
.PHONY: test-slow

test-gpu: $(STAMP)  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu
.PHONY: test-gpu

SMALL ?=
gpu-day: $(STAMP)  ## a GPU's first hour in ten minutes, into docs/gpu/ (SMALL=1: the same on a CPU, small)
	$(BIN)/python -m tests.bench.gpu_day $(if $(SMALL),--small)
.PHONY: gpu-day

test-browser: $(STAMP)  ## the page in chromium (Debian, root: installed if need be)
	-@command -v chromium > /dev/null || apt-get install -y -q --no-install-recommends chromium
	$(BIN)/python -m pytest -m browser
.PHONY: test-browser

SLURM := slurmctld slurmd slurm-client munge
launchers: $(VENV)/.launchers  ## .venv with the launchers for Slurm and Ray
.PHONY: launchers

$(VENV)/.launchers: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,slurm,ray]'
	@touch $@

test-slurm: $(VENV)/.launchers  ## a sweep on a real Slurm, installed if need be (Debian, root) and started by the test
	-@PATH="$$PATH:/usr/sbin"; for p in slurmctld slurmd sbatch munged; do command -v $$p > /dev/null \
	  || exec apt-get install -y -q --no-install-recommends $(SLURM); done
	$(BIN)/python -m pytest -m slurm
.PHONY: test-slurm

test-ray: $(VENV)/.launchers  ## a sweep on a local Ray cluster, a worker killed
	$(BIN)/python -m pytest -m ray
.PHONY: test-ray

# An environment of their own on top of .venv: with transformers in it, lightning imports that everywhere.
# litgpt caps huggingface_hub below what transformers needs, for downloads alone, which no export makes: it is
# installed without its requirements, which the extra names.
EXPORTS := .venv-exports
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(EXPORTS)/.installed: $(STAMP)
	$(PYTHON) -m venv $(EXPORTS)
	$(BIN)/python $(PURELIB) > "$$($(EXPORTS)/bin/python $(PURELIB))/base.pth"
	$(EXPORTS)/bin/pip install -q -c constraints.txt -e '.[exports]'
	$(EXPORTS)/bin/pip install -q -c constraints.txt --no-deps litgpt
	@touch $@

test-exports: $(EXPORTS)/.installed  ## the exports, read by litgpt and transformers
	$(EXPORTS)/bin/python -m pytest -m exports
.PHONY: test-exports

# The oldest torch and lightning that pyproject.toml allows, in front of what .venv has. Where the index has torch for
# CUDA alone, that is 5 GB on disk: PIP_EXTRA_INDEX_URL may name one with builds for CPUs.
LOWEST := .venv-lowest
# Compilation, sharded tensors, ranks, checkpoints, optimisers, and the loop with its trunks.
LOWEST_TESTS ?= $(foreach t,session_compile sharded step step_ranks devices checkpoint optimizers trunks,\
  tests/sweep/training/test_$(t).py) tests/sweep/test_model.py tests/sweep/test_model_options.py
lowest: $(LOWEST)/.installed  ## .venv-lowest with the oldest torch and lightning that are allowed
.PHONY: lowest

$(LOWEST)/.installed: $(STAMP)
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python $(PURELIB) > "$$($(LOWEST)/bin/python $(PURELIB))/base.pth"
	$(LOWEST)/bin/pip install -q --no-compile 'torch==2.6.*' 'lightning==2.4.*' 'numpy<2.3'
	@touch $@

test-lowest: $(LOWEST)/.installed  ## with them, the tests of what the trainer asks of torch (LOWEST_TESTS=tests/sweep: more)
	$(LOWEST)/bin/python -m pytest -n 2 $(LOWEST_TESTS)
.PHONY: test-lowest

lint: $(STAMP)  ## ruff: style, docstrings, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
.PHONY: lint

type: $(STAMP)  ## mypy --strict on fit and sweep
	$(BIN)/mypy
.PHONY: type

readme: $(STAMP)  ## the README's outputs as its commands print them now
	$(BIN)/python -m tests.doc_commands
.PHONY: readme

$(VENV)/.docs: $(DEMO)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## the documentation as a site in build/site, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --config-file .ci/mkdocs.yml
.PHONY: docs

check: lint type test  ## what to run before a commit: lint, types, fast tests
.PHONY: check

bench: $(STAMP)  ## speed and memory, ratios interleaved in one run
	$(BIN)/python -m tests.bench
.PHONY: bench

# The peers need pydantic, polars and more: an environment of their own, on Python 3.12 where there is one.
PEERS := .venv-peers
PEERS_PYTHON ?= $(shell for p in python3.13 python3.12 $(PYTHON); do $$p -c '' 2>/dev/null && echo $$p && break; done)

$(PEERS)/.installed: Makefile
	$(PEERS_PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q 'chinchilla==0.2.0' 'simple-scaling-laws==0.2.0; python_version >= "3.12"'
	@touch $@

bench-peers: $(STAMP) $(PEERS)/.installed  ## the public packages on the same tables, in a venv of their own
	$(BIN)/python -m tests.bench.peers $(PEERS)/bin/python
.PHONY: bench-peers

# The league's rivals: as above, and vpnls where VPNLS names a checkout of its source (github.com/Open-Athena/vpnls;
# the tables of docs/league.md are of commit 026317d). What cannot be installed is named in the tables as not run.
LEAGUE ?= series.csv
VPNLS ?=
RIVALS := .venv-league
$(RIVALS)/.installed: Makefile
	$(PEERS_PYTHON) -m venv $(RIVALS)
	-$(RIVALS)/bin/pip install -q 'chinchilla==0.2.0'
	-$(RIVALS)/bin/pip install -q 'simple-scaling-laws==0.2.0'
	$(if $(VPNLS),-$(RIVALS)/bin/pip install -q '$(VPNLS)[scipy]')
	@touch $@

league-file:
	@test -f '$(LEAGUE)' || { echo "$(LEAGUE): no such file; a table of public sweeps is needed (columns: tests/bench/league.py)." \
	  "Name it: make league LEAGUE=path/to/series.csv"; exit 1; }
.PHONY: league-file

league: league-file $(STAMP) $(RIVALS)/.installed  ## forecasts of real sweeps against rivals (minutes; LEAGUE=series.csv, VPNLS=checkout; docs/league.md)
	$(BIN)/python -m tests.bench.league '$(LEAGUE)' --peers $(RIVALS)/bin/python
.PHONY: league

calibrate: $(STAMP)  ## coverage of the intervals by simulation (minutes; docs/calibration.md)
	$(BIN)/python -m tests.bench.calibrate
	$(BIN)/python -m tests.bench.worlds
.PHONY: calibrate

clean:  ## remove .venv and caches; runs and reports stay
	rm -rf $(VENV) $(PEERS) $(RIVALS) $(EXPORTS) $(LOWEST) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
.PHONY: clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12
.PHONY: help
