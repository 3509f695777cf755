# A newcomer needs two commands: `make demo` and `make test`. Both make .venv and install into it what they need.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
OUT ?= runs/demo
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXPORT := $(VENV)/.export
RUN ?=
# two workers of one thread each are quicker on two cores than one worker of two threads
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo figures test test-slow lint types format check clean

help:
	@echo "make demo       diagnose the embedded model offline; ends with the path of its report (OUT=$(OUT))"
	@echo "make figures    draw the gallery in figures/ from a run of its own, or RUN=a demo with a repair in its folder repair/"
	@echo "make test       run the test suite"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make lint       ruff;  make types: mypy;  make check: lint, types, test"
	@echo "make clean      remove .venv and caches (runs stay)"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.11")'
	@test -x $(BIN)/python || { echo "==> creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "==> installing $(TORCH) first: installed after the others it would arrive with gigabytes of CUDA wheels"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(BIN)/python -W ignore -c 'import torch; print("==> torch", torch.__version__, "(CPU build)" if torch.version.cuda is None and torch.version.hip is None else "(a GPU build, gigabytes large; a CPU build is enough here: make clean, then make TORCH_INDEX=https://download.pytorch.org/whl/cpu ...)")'
	@echo "==> installing the workbench and its tested versions (constraints.txt); this takes minutes once and is skipped afterwards"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@echo "==> diagnosing the embedded model, offline, into $(OUT)"
	@HF_HUB_OFFLINE=1 $(BIN)/workbench demo --out $(OUT)

$(EXPORT): $(STAMP)
	@echo "==> installing what draws pictures (the extra 'export')"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[export]'
	@touch $@

figures: $(EXPORT)
	@echo "==> drawing the gallery$(if $(RUN), of $(RUN), of a demo that is run first: some minutes)"
	@HF_HUB_OFFLINE=1 $(BIN)/python figures/make.py $(RUN)

test: $(STAMP)
	@echo "==> running the tests"
	$(PYTEST)

test-slow: $(STAMP)
	@echo "==> running the slow tests"
	$(PYTEST) -m slow

lint: $(STAMP)
	@echo "==> ruff"
	$(BIN)/ruff check .

types: $(STAMP)
	@echo "==> mypy"
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .

check: lint types test

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
