# Two commands for a newcomer: `make quickstart` and `make test`. Both need python3, make and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart offline-eval test lint faults soak bench bench-full

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

quickstart: setup
	$(BIN)/mux-launch recipes/quickstart.toml

offline-eval: setup
	@test -e data || { echo "there is no folder data: docs/evaluation.md, \"Evaluate offline\", says what it holds"; exit 2; }
	$(BIN)/mux-launch recipes/offline_eval_n1.toml
	$(BIN)/mux-launch recipes/offline_eval.toml
	$(BIN)/mux-launch recipes/offline_eval_n5.toml
	$(BIN)/mux report runs/offline_eval_n1 runs/offline_eval runs/offline_eval_n5 --out runs/offline_eval_report

test: setup
	$(BIN)/python -m pytest

faults: setup
	$(BIN)/python -m pytest --thorough -m fault

soak: setup
	$(BIN)/python -m tests.faults.soak --minutes 30

bench: setup
	$(BIN)/python -m benchmarks --short

bench-full: setup
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks --page docs/performance.md

lint: setup
	$(BIN)/ruff check
	$(BIN)/mypy
