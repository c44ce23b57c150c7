# make try    an environment of its own, then pictures for PROMPT
# make test   lint, types, documentation, fast claims and the whole test suite
# make lint, make docs, make clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROMPT ?= a red circle left of a blue square
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt

export PROMPT
# OpenMP threads that spin while they wait make a busy machine many times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: try test lint docs clean

try: $(VENV)/.installed
	$(BIN)/suffuse generate "$$PROMPT" -n 4

# Two worker processes of one thread each use two cores better than one process of two threads.
test: export OMP_NUM_THREADS := 1
test: lint
	$(BIN)/suffuse docs check
	$(BIN)/suffuse reproduce --fast --check
	$(BIN)/pytest -n 2

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/suffuse docs build

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing suffuse and what it needs into $(VENV) (once; a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(PIP) -e ".[test]"
	@touch $@
