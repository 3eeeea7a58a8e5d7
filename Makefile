# make demo   train on drawn scenes, evaluate, and say where the pictures and the table are
# make test   style and tests, as CI runs them
# make check  style, types, kernels and the rules of who imports whom: two minutes, before every commit
#             (in float64: JAX_ENABLE_X64=1 make check)
# make smoke  imports, kernels and one training: for another Python (make smoke PYTHON=python3.12 VENV=.venv-3.12)
# make plan-test  steps and chains are compiled for a TPU slice and an H100 that are not here (installs 1.5 GB into .venv-plan)
# make lint   style and types alone
# make format rewrite the code in the house style
# make bench  the benchmarks
# make models     trains the models of semdiff/shipped/ again: hours on two cores, minutes on an accelerator; resumes
# make notebooks  runs colabs/*.py, writes colabs/*.ipynb with what they show
# make lock   choose newer versions: rewrites requirements/lock.txt
# make clean  remove .venv and caches; runs/ stays
#
# The first of them makes .venv and installs the locked versions into it. Python: make demo PYTHON=python3.12

PYTHON ?= python3
LOCK_PYTHONS ?= python3.11 python3.12
DEMO ?= runs/demo
WORKERS ?= 2

VENV ?= .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
# Large arrays in huge pages: fewer page faults on CPU.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
NEED := semdiff needs Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11
MODEL := $(BIN)/python -m semdiff.main --config=configs/scenes_64.py --workdir=runs/models/scenes
RUN := $(BIN)/python -m semdiff.main --config=configs/scenes.py --workdir=$(DEMO)

.PHONY: help demo test check smoke plan-test lint format bench models notebooks lock clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

demo: $(INSTALLED)
	$(RUN)
	$(RUN) --mode=evaluate

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/diffusion tests/doors_test.py tests/docstrings_test.py

smoke: $(INSTALLED)
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
		tests/diffusion tests/machine tests/doors_test.py \
		tests/main_test.py::test_a_run_says_what_it_is_and_leaves_what_it_promises

plan-test:
	@$(MAKE) --no-print-directory .venv-plan/.installed VENV=.venv-plan
	@jax=$$(.venv-plan/bin/python -c 'import jax; print(jax.__version__)') && \
		.venv-plan/bin/python -m pip --disable-pip-version-check -qq install \
		"jax[tpu]==$$jax" "jax-cuda12-plugin==$$jax" "jax-cuda12-pjrt==$$jax" nvidia-cuda-nvcc-cu12
	.venv-plan/bin/python -m pytest -n $(WORKERS) tests/modes/plan_test.py tests/machine

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py

$(INSTALLED): $(LOCKED) setup.cfg pyproject.toml
	@$(PIP) install --no-deps --editable .
	@touch $@

$(LOCKED): requirements/lock.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON) here. $(NEED)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) does not do: it is $$($(PYTHON) --version 2>&1). $(NEED)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
		{ echo "error: $(PYTHON) cannot make virtual environments. On Debian: apt install python3-venv" >&2; exit 1; }
	@echo "installing the locked versions into $(VENV) (once, about 800 MB)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --requirement requirements/lock.txt
	@touch $@

models: $(INSTALLED)
	$(MODEL)
	$(MODEL) --mode=evaluate
	$(MODEL) --mode=export --config.export.output=semdiff/shipped/scenes --config.export.command="make models"

# Jupyter is needed for nothing else: it comes on demand.
notebooks: $(INSTALLED)
	@$(PIP) install --editable .[notebooks]
	cd colabs && for text in *.py; do ../$(BIN)/jupytext --to ipynb --execute $$text || exit 1; done
	sed -i 's|$(CURDIR)/colabs/||g' colabs/*.ipynb

lock:
	$(PYTHON) requirements/lock.py $(LOCK_PYTHONS)

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
