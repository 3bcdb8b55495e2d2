# The one door to this repository: `make help` says what is behind it.
#
# Each target sets up what it needs and says so first. Nothing here hides a step: the work is done
# by the programs in scripts/, which can be read and run one by one.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo lab test check lint format setup lock bench simulate clean

BIN := .venv/bin

# Tests at the same time, one by one to whoever is free (tests/support/workers.py); ARGS=-n0: in turn.
# They start hundreds of processes, which would each compile Orbit anew with PYTHONDONTWRITEBYTECODE.
WORKERS := -n auto --maxschedchunk 1

help: ## what can be done here
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: ## Orbit on this machine: two containers behind HAProxy, until Ctrl-C (ONCE=1: check and end)
	@scripts/packages python demo
	@scripts/setup
	@exec $(BIN)/python scripts/demo $(if $(filter-out 0,$(ONCE)),--once)

lab: ## several hosts on this machine, until Ctrl-C (HOSTS=3; ONCE=1: requests through them, and end)
	@scripts/packages python demo test
	@scripts/setup
	@exec scripts/lab $(if $(HOSTS),--hosts $(HOSTS)) $(if $(filter-out 0,$(ONCE)),--once)

test: ## all tests; those that need Docker, HAProxy and etcd run the real ones (ARGS=…: for pytest)
	@scripts/packages python demo test
	@scripts/setup
	@unset PYTHONDONTWRITEBYTECODE; exec $(BIN)/pytest $(WORKERS) $(ARGS)

check: lint test ## what CI runs: lint, types, layer contracts, all tests

lint: ## style, types and layer contracts
	@scripts/packages python
	@scripts/setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	MYPYPATH=scripts/demo $(BIN)/mypy scripts/demo examples/programs/clock.py
	$(BIN)/lint-imports

format: ## rewrites the code in the house's style
	@scripts/setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

setup: ## .venv with everything that is needed to work here, and .venv/bin/orbitctl
	@scripts/packages python
	@scripts/setup

lock: ## requirements*.txt from pyproject.toml (UPGRADE=1: with the newest releases)
	@scripts/setup
	@scripts/lock $(if $(filter-out 0,$(UPGRADE)),--upgrade)

bench: ## every benchmark, with the machine it ran on (ONLY=name: one of them)
	@scripts/packages python demo test bench
	@scripts/setup
	@scripts/bench $(ONLY)

simulate: ## rollouts amid random faults in virtual time (ROLLOUTS=1000, SEED=…: the same ones again)
	@scripts/setup
	@$(BIN)/python scripts/simulate $(or $(ROLLOUTS),1000) $(SEED)

clean: ## removes the virtual environment and all caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
