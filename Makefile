# `make test` and `make demo` need Python 3.11+ and git; each sets up .venv once.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo-repository

.PHONY: test demo bench fmt clean

.venv/ready: pyproject.toml setup.py constraints.txt git_gru/store/_transform.c
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,test]'
	touch $@

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $${PYTEST_WORKERS:-4}

demo: .venv/ready
	@folder="$(DEMO)"; n=2; \
	while [ "$(DEMO)" = demo-repository ] && [ -e "$$folder" ]; do folder="demo-repository-$$n"; n=$$((n + 1)); done; \
	$(BIN)/git-gru demo "$$folder"

bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt zipnn z4ai accelerate lightning
	$(BIN)/python -m benchmarks.storage
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.distributed --plots docs/plots

fmt: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
