.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

help:  ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: $(STAMP)  ## Create .venv and install pfstudy with everything that development needs

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pfstudy needs Python 3.11 or newer; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -e '.[dev]'
	@touch $@

demo: install  ## Sweep five operations on real images and print the table; about a minute
	$(BIN)/pfstudy -m block.spatial=conv,maxpool,avgpool,dwconv,identity

test: install  ## Run the test suite
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install  ## Run the long proofs
	$(BIN)/python -m pytest -m slow

check: install  ## Check format, lint, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Format the code and mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: install  ## Run the benchmarks and print their figures; several minutes
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

wheel: install  ## Build the wheel into dist/
	$(BIN)/uv build --quiet --wheel

clean:  ## Remove the environment and what tools left, but no runs
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.PHONY: help install demo test test-slow check format bench wheel clean
