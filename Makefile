# `make demo` and `make test` set everything up in .venv on a machine with Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := $(VENV)/.native

.PHONY: demo native test test-all bench check format types clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "covey needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/covey demo

# covey works without it; make test builds it where there is a compiler.
$(NATIVE): $(READY) $(shell find native -type f ! -name '*.pyc')
	@if { command -v c++ || command -v g++ || command -v clang++; } >/dev/null; then \
		set -ex; \
		$(BIN)/pip install --quiet --constraint constraints.txt scikit-build-core nanobind cmake ninja; \
		$(BIN)/pip install --quiet --no-deps --no-build-isolation --force-reinstall ./native; \
		touch $@; \
	else \
		echo "make: covey-native is not built, for there is no C++ compiler (c++, g++ or clang++); its tests are skipped"; \
	fi

native: $(NATIVE)

test: $(READY) $(NATIVE)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY) $(NATIVE)
	$(BIN)/python -m pytest -n 2

bench: $(READY) $(NATIVE)
	$(BIN)/python -m bench

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
