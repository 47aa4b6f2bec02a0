# The two commands of the README, and what continuous integration runs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check slow lint docs clean

# Pretrain, compare and map on the imagery in the package: about ten minutes.
demo: $(VENV)/installed
	$(BIN)/spectralgpt demo --output runs/demo --overwrite

# Everything that runs in a few minutes.
test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

# Training runs: kill and resume, two processes, the demo, the documents.
slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist
