# `make install`, `demo`, `test`, `sweep`, `lint`, `docs`, `notebooks`: each sets up what it needs in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A process for each core, at most four: with torch each takes one or two GB of memory.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

.PHONY: install demo test sweep lint docs notebooks clean

install: $(VENV)/.installed

demo: install
	$(BIN)/usdn-nas run studies/digits.toml

# All tests but the long sweeps. Each process runs neighbouring tests, which share fixtures, until it has to take some
# from another.
test: $(VENV)/.installed-dev
	$(PYTEST) --dist worksteal -m "not sweep"

# The long sweeps. Each process takes one file at a time, because some have a fixture that takes minutes.
sweep: $(VENV)/.installed-dev
	$(PYTEST) --dist loadfile -m sweep

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

# Executes them in place, beside the demo's run and a second one to compare with.
notebooks: demo
	$(PIP) install --editable '.[notebooks]'
	$(BIN)/usdn-nas search digits --set search.sampler=random --set search.configurations=16 --out runs/random
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf $(VENV) build site dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# venv writes pip last: one that was interrupted is made again.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "usdn-nas: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "usdn-nas: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "usdn-nas: Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Editable, so that edited search spaces and studies count at once. Compiled: where Python may not write bytecode,
# every start would compile torch's modules anew (13 s). A stamp older than the settings means that dependencies may have changed.
$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/pip
	@echo "Installing usdn-nas and what it needs into $(VENV) (with torch several GB to download, a few minutes) ..."
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(BIN)/pip
	@echo "Installing usdn-nas, what it needs and the tools of tests and lint into $(VENV) (with torch several GB to download, a few minutes) ..."
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.installed
