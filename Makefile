# Two commands set everything up: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

run: .venv/installed          ## adapt, prune and evaluate with the defaults (minutes)
	$(BIN)/python train.py

demo: .venv/installed         ## the whole loop between cloud and edge, with a page of its numbers (under 15 minutes)
	$(BIN)/python scripts/demo.py

test: .venv/installed         ## the tests that take seconds, two at a time; those that need real data are skipped without it
	$(PYTEST) -m "not slow"

test-all: .venv/installed     ## every test (half an hour)
	$(PYTEST)

robustness: .venv/installed   ## hostile files, crashes and full disks in numbers, with their counts (an hour or two)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m robustness tests/robustness

check: .venv/installed docs   ## formatting, lint, types and documents
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

docs: .venv/installed         ## the documents and API pages into site/, without warnings (seconds)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: .venv/installed        ## the speeds in docs/performance.md
	$(BIN)/python benchmarks/abr_simulator.py && $(BIN)/python benchmarks/cjs_simulator.py && $(BIN)/python benchmarks/pruning.py

.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/'

.PHONY: run demo test test-all robustness check docs bench help
