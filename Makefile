# make            lists the targets
# make serve      sets up what is missing, builds the default model's package and serves it
# make test       sets up what is missing and runs every test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet
MODEL  ?= smollm2-135m-instruct
HOST   ?= 127.0.0.1
PORT   ?= 8000
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev model serve test check bench engine clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.cpu ## Make .venv with everything that serving needs

setup-dev: $(VENV)/.dev ## The same, and the tools that check and test need

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "powertrain needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.cpu: requirements/cpu.txt pyproject.toml | $(BIN)/python
	@echo "Installing what serving needs"
	@$(PIP) install --require-hashes -r requirements/cpu.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.cpu
	@echo "Installing what checks and tests need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

model: setup ## Build the package of MODEL if it is missing
	@$(BIN)/powertrain export models/$(MODEL).toml

serve: model ## Serve MODEL on HOST:PORT (more flags in ARGS)
	@$(BIN)/powertrain serve models/$(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: setup-dev model ## Run every test (pytest flags in ARGS)
	@$(BIN)/python -m pytest $(ARGS)

check: setup-dev ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: model ## Measure the served default model
	@$(BIN)/powertrain bench --help

clean: ## Remove the environment, the built packages and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist bench/results
	find models -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
