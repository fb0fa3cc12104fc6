# Everything a user or a developer of this tree runs. Each target sets up what it needs, in .venv.
#
#   make run    a server, a few devices, and the main job at work
#   make test   lint, types, all tests, 1,000 runs of the simulation, and the deliberate faults that it has to find
#   make soak   the simulation, SEEDS=100000 runs of it on all cores (tests/simulation/README.md)
#   make bench  what commands and idle devices cost, against a bare relay (docs/benchmarks.md)
#   make bench-storm  1 MiB to 10,000 devices, and 5,000 that come back at once (docs/benchmarks.md)
#   make docs   docs/configuration.md anew, from devconf/config.py

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint soak bench bench-storm docs clean

run: $(VENV)/.installed
	@$(BIN)/python -m devconf.demo run

test: lint
# Folders first, where the slow modules with few tests are, so that none of them is left to the end.
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m tests.simulation --seeds 1000 --require-coverage
	$(BIN)/python -m tests.simulation --faults

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check devconf twisted tests benchmarks docs/make_configuration.py
	$(BIN)/ruff format --check devconf twisted tests benchmarks docs/make_configuration.py
	$(BIN)/mypy devconf twisted/plugins tests benchmarks docs/make_configuration.py --exclude '^benchmarks/ab\.py$$'

soak: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),100000)

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks --json build/bench.json $(ARGS)

bench-storm: $(VENV)/.installed
	@$(BIN)/python -m benchmarks.storm fan --devices 10000 --deaf 1
	@$(BIN)/python -m benchmarks.storm storm --devices 5000

docs: $(VENV)/.installed
	$(BIN)/python docs/make_configuration.py

$(VENV)/.installed: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing devconf into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-for-tests: setup.cfg pyproject.toml $(VENV)/.installed
	@echo "Installing the test tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info run
