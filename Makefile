# Each target does its own set-up in .venv, once, and again when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## set up .venv with qzoo and everything that it needs

demo: $(STAMP) ## fine-tune a pretrained encoder on a game that it never saw, and score it
	$(BIN)/zoo demo

test: $(STAMP) ## run the tests, with coverage (no network or GPU needed); ARGS= goes to pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-fail-under=85 $(ARGS)

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict zoo finetune

bench: $(STAMP) ## measure speed against this machine's limit and against peers
	$(BIN)/zoo bench

clean: ## remove caches and built packages (keeps .venv and runs)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache htmlcov .coverage .coverage.*
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A working .venv is kept. One pip call names everything, so that torch and torchvision are chosen as a pair.
$(STAMP): pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one that is, as in: make install PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Setting up $(VENV): a few minutes, once"; $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@
