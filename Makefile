# Everything a developer or a first-time user calls. `make help` lists it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?= .headrace
PORT   ?= 8080
SEED   ?= 7
MINUTES ?= 30
OUTAGE_S ?= 620

.DEFAULT_GOAL := help
.PHONY: help setup run test test-long chaos outage bench bench-growth check lock docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Make .venv and download everything; starts nothing

run: setup ## Bring everything up, play the sample batch, stay until Ctrl-C (DATA=folder PORT=8080)
	@$(BIN)/headrace up --data '$(DATA)' --port '$(PORT)' --sample tests/data/sample-batch.json

test: setup ## Run the tests: thirteen minutes on two cores
	@$(BIN)/pytest -m 'not long'

test-long: setup ## Run the tests that the others stand for, too long for every change
	@$(BIN)/pytest -m long

chaos: setup ## Load, faults and a checker, on and on (SEED=7 MINUTES=30 REPORT=file.json)
	@$(BIN)/python -m tests.chaos --seed '$(SEED)' --minutes '$(MINUTES)' $(if $(REPORT),--report '$(REPORT)')

outage: setup ## A Postgres outage of more than ten minutes (OUTAGE_S=seconds)
	@HEADRACE_TEST_OUTAGE_S='$(OUTAGE_S)' $(BIN)/pytest tests/crash/test_outage.py -o log_cli=true --log-cli-level=INFO

bench: setup ## Measure what an event costs, about ten minutes on two cores; keeps the results by date
	@$(BIN)/python -m tests.bench

bench-growth: setup ## Measure costs and lists with 0.1, 1 and 10 million events; half an hour, 20 GB of disk
	@$(BIN)/python -m tests.bench.growth

check: setup ## Lint, format, types, tidiness
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/test_tidy.py

lock: setup ## Resolve the dependencies anew: requirements*.txt and Kafka's jars
	@$(BIN)/uv pip compile $(COMPILE) --extra build -o requirements.txt pyproject.toml
	@$(BIN)/uv pip compile $(COMPILE) --extra build --extra local --extra dev -c requirements.txt -o requirements-dev.txt pyproject.toml
	@scratch=$$(mktemp -d) && $(BIN)/python -m deploy.local.kafka_jars "$$scratch" && rm -r "$$scratch"

docs: setup ## Write the pages that are made from the code
	@$(BIN)/python -m deploy.settings_page docs/settings.md
	@$(BIN)/python -m deploy.cli_page docs/cli.md

clean: ## Remove .venv and caches; data folders stay
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(COMPILED)
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One that can no longer be built must not stay behind from an older source.
COMPILED := schemas/_scan.*.so processors/_encode.*.so

COMPILE := --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock'

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer: name one with PYTHON=, as in make setup PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment can be made: is Python's venv module installed (python3-venv)?" >&2; exit 1; }
	@touch $@

$(VENV)/.packages: requirements-dev.txt pyproject.toml schemas/_scan.c processors/_encode.c | $(VENV)/.python
	@echo "installing the packages (hashes checked)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-dev.txt \
		|| { echo "the packages cannot be installed: check the network and run make setup again" >&2; exit 1; }
	@rm -f $(COMPILED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.ready: $(VENV)/.packages deploy/local/kafka.lock.toml
	@$(BIN)/headrace setup
	@touch $@
