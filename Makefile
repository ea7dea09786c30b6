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

# The native code under the address and undefined-behaviour sanitizers, in an environment that takes all else from .venv.
# Of the real files the smallest is enough: they run the same kernels, and the reference beside them takes the time.
sanitize: .venv-sanitize/.built
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	.venv-sanitize/bin/python -m pytest -p no:cacheprovider tests/native \
		$(foreach model,gemma3 qwen0.5b,--deselect "tests/native/test_real_files.py::test_twenty_prompts_of_a_real_file[$(model)]")

PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
.venv-sanitize/.built: $(BUILT)
	$(PYTHON) -m venv --without-pip .venv-sanitize
	$(BIN)/python $(PACKAGES) > "$$(.venv-sanitize/bin/python $(PACKAGES))/shared.pth"
	.venv-sanitize/bin/python -m pip install --quiet --no-deps --ignore-installed --no-build-isolation . \
		-Cbuild-dir=build/sanitize -Ccmake.define.MEMBOUND_SANITIZE=ON -Ccmake.define.MEMBOUND_COMPILE=OFF
	touch $@
