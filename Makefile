# Two commands on a machine with Python 3.11, pip and make:
#   make demo   slides to features to neighbours to a report, on a synthetic cohort
#   make test   every test
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

demo: $(READY)
	$(BIN)/tissuary demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -q --numprocesses=2 --dist=worksteal  # in turn: fixtures of a file are made once

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/tissuary
	MYPYPATH=$(VENV)/types $(BIN)/mypy -p tissuary

bench: $(READY)
	$(BIN)/python -m tissuary.benchmarks.gather

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
