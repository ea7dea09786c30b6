# Two commands matter: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILT := $(VENV)/.built
BUILDS_WITH := "scikit-build-core>=0.11" "nanobind>=2.9" "mypy>=2.4,<3" "setuptools>=65" cmake ninja
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/* csrc/*/*)
# Modules that mypyc compiles. Once edited they run from source until the next `make build`, and so do the others.
COMPILED := $(wildcard cmake/*) $(patsubst %,src/membound/%.py,$(shell cat cmake/compiled.txt))

.PHONY: build demo test lint bench load validate sanitize

build: $(BUILT)

$(VENV)/.deps: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(BUILDS_WITH)
	touch $@

$(BUILT): $(VENV)/.deps $(SOURCES) $(COMPILED)
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

# About an hour and a half, peers' environments and their first compilation included, on a quiet machine;
# benchmarks/peers.py measures parts of it.
bench: build
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/speed_page.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/pacing.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/event_loop.py

load: build
	MEMBOUND_LOAD_SECONDS=300 $(BIN)/pytest -s tests/server/test_load.py

validate: build
	$(BIN)/membound validate
	$(BIN)/python benchmarks/perplexity.py

# The native code under the address and undefined-behaviour sanitizers, in an environment of its own.
sanitize: .venv-sanitize/.built
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	.venv-sanitize/bin/pytest -p no:cacheprovider tests/native

.venv-sanitize/.built: $(SOURCES)
	$(PYTHON) -m venv .venv-sanitize
	.venv-sanitize/bin/pip install --quiet $(BUILDS_WITH)
	.venv-sanitize/bin/pip install --quiet --no-build-isolation ".[dev]" \
		-Cbuild-dir=build/sanitize -Ccmake.define.MEMBOUND_SANITIZE=ON -Ccmake.define.MEMBOUND_COMPILE=OFF
	touch $@
