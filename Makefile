# Everything here sets itself up: a virtual environment in .venv, the pinned CPU build of torch, and this package.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
READY := $(VENV)/.ready

.PHONY: help setup test check claims demo bench docs

help:  ## Print what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup: $(READY)  ## Make the virtual environment

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) --editable '.[models,cluster,sweep,evals,sign,dev]'
	touch $@

test: $(READY)  ## Run the tests: the contract battery, units, the study engine, the documentation
	$(BIN)/python -m pytest

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

claims: $(READY)  ## Run the slow scientific checks: the studies that the claims rest on, two or three seeds each (hours on two cores; what is kept is not run again)
	$(BIN)/untaught fetch smollm2 elements
	$(BIN)/python -m pytest tests/claims -m slow

demo: $(READY)  ## Run the default study with one seed into runs/demo (about 4 minutes on two cores)
	$(BIN)/untaught run --set 'seeds=[0]' --out runs/demo

bench: $(READY)  ## Time what is promised, the real study too, and with CORPUS=DIR filtering; prints and keeps benchmarks/*.json
	$(if $(CORPUS),$(BIN)/python -m pip install --quiet pyahocorasick hyperscan)
	$(if $(CORPUS),$(BIN)/python benchmarks/scanner.py $(CORPUS))
	$(if $(CORPUS),$(BIN)/python benchmarks/filtering.py $(CORPUS) --reference)
	$(BIN)/untaught fetch smollm2 elements
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/rmu_step.py
	$(BIN)/python benchmarks/real_study.py
	$(BIN)/python benchmarks/real_study.py --seeds
	$(BIN)/python benchmarks/gpu/interventions.py
	$(BIN)/python benchmarks/promises.py
	$(BIN)/python benchmarks/promises.py --test

docs: $(READY)  ## Make what the docs are generated from: the schemas and the README's numbers and picture
	$(BIN)/python docs/generate.py
