# Two commands matter: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILT := $(VENV)/.built
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/* csrc/*/*)

.PHONY: build demo test lint bench validate

build: $(BUILT)

$(VENV)/.deps: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "scikit-build-core>=0.11" "nanobind>=2.9" cmake ninja
	touch $@

$(BUILT): $(VENV)/.deps $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

demo: build
	$(BIN)/membound demo

test: build
	$(BIN)/membound pull smollm2
	$(BIN)/pytest

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: build
	$(BIN)/python benchmarks/peers.py

validate: build
	$(BIN)/membound validate
