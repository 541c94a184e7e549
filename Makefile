# Two commands for a newcomer: `make quickstart` and `make test`. Both need python3, make and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart test lint

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

quickstart: setup
	$(BIN)/mux-launch recipes/quickstart.toml

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check
	$(BIN)/mypy
