# Everything a newcomer needs: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
# Most of a test's time is waiting for other processes: three at once take little more than a third as long.
WORKERS ?= 3
.DEFAULT_GOAL := help

.PHONY: help setup run test test-long check docs bench kafka cluster faults format clean

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Tidings needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

setup: .venv/.ready ## Make .venv with everything in it

run: setup ## Start everything embedded and print the page's address
	@$(BIN)/tidings demo

test: setup check ## Run every check (the long ones in their short form)
	@$(BIN)/python -m tests.support.system
	@$(BIN)/python -m pytest -q -m "not long" -n $(WORKERS) --dist loadfile

test-long: setup check ## Run every check in its full form
	@$(BIN)/python -m tests.support.system
	@$(BIN)/python -m pytest -q --hypothesis-profile=long

check: setup ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Let ruff fix what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## Build the documents' site into ./site; a broken link is an error
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.lock
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

bench: setup ## Run the benchmarks and print their tables
	@$(BIN)/python -m benchmarks

kafka: setup ## Start a real Kafka broker on loopback for development
	@$(BIN)/python -m tests.support.broker

cluster: setup ## Start what docker-compose.yml composes as plain processes on loopback
	@$(BIN)/python -m tests.chaos.cluster.cluster

faults: setup ## Harm the composed system in every way for half an hour under load (MINUTES=30 SEED=N)
	@$(BIN)/python -m tests.support.system
	@$(BIN)/python -m tests.chaos.cluster.faults --minutes $(or $(MINUTES),30) --rate $(or $(RATE),50) $(if $(SEED),--seed $(SEED))

clean: ## Remove what was made here, the data folder excepted
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis site
