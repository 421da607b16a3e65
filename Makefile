# Each target does its own set-up in .venv, once, and again when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
PEERS := .venv-peers
D3RLPY := d3rlpy==2.8.1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo docs test test-all lint bench peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## set up .venv with qzoo and everything that it needs

demo: $(STAMP) ## fine-tune a pretrained encoder on a game that it never saw, and score it
	$(BIN)/zoo demo

# A process of tests that ends, as one that hangs is made to, is not replaced: pytest-xdist 3.8 would then wait for ever.
# Bytecode is written whatever the environment says: else each of the tests' many processes would compile the package.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup \
  --max-worker-restart 0

test: $(STAMP) ## run the tests but for the slow ones (no network or GPU needed); ARGS= goes to pytest
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMP) ## run every test; ARGS= goes to pytest, as in ARGS=--cov
	$(PYTEST) $(ARGS)

lint: $(STAMP) ## check style, formatting, types, layers of imports and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -n auto
	$(BIN)/lint-imports
	$(DOCS)

# The variable: a theme's advertisement of its successor is no warning of ours.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(STAMP) ## build the documentation into site/, the reference from docstrings
	$(DOCS)

bench: $(STAMP) ## measure speed against this machine's limit and against peers
	$(BIN)/zoo bench

peers: $(PEERS)/.installed ## set up .venv-peers with d3rlpy, which make bench then measures as well

clean: ## remove caches and built packages (keeps environments and runs)
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache htmlcov .coverage .coverage.*
	find . \( -path ./$(VENV) -o -path ./$(PEERS) \) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A working .venv is kept. One call names everything, so that torch and torchvision are chosen as a pair. uv unpacks and
# compiles on all cores. Of pip's settings it is told the index; where it fails, or the environment names an extra index
# or constraints, pip does it.
$(STAMP): pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one that is, as in: make install PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Setting up $(VENV): a few minutes, once"; $(PYTHON) -m venv --clear $(VENV); }
	-$(PIP) install 'uv>=0.8'
	index="$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}"; \
	  test -z "$$PIP_EXTRA_INDEX_URL$$PIP_CONSTRAINT" && \
	  $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode $${index:+--default-index "$$index"} -e '.[dev]' || \
	  { echo "not by uv; now by pip"; $(PIP) install -e '.[dev]'; }
	@touch $@

# d3rlpy wants an older gymnasium, so it has an environment of its own. The rest, PyTorch above all, it borrows from
# .venv: what is compared runs on the same build of it.
$(PEERS)/.installed: | $(STAMP)
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --no-deps '$(D3RLPY)' 'gymnasium==1.0.0'
	packages() { "$$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	  packages $(BIN)/python > "$$(packages $(PEERS)/bin/python)/borrowed.pth"
	@echo "pip may now say that minari and gymnasium don't fit together: here they need not"
	$(PEERS)/bin/python -m pip install --disable-pip-version-check '$(D3RLPY)'
	@touch $@
