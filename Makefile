# The two commands of the README, and what continuous integration runs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Another PYTHON than that of the environment makes it anew.
INSTALLED = $(VENV)/installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo test check slow lint fuzz lowest site package clean

# Pretrain, compare and map on the imagery in the package: about ten minutes.
demo: $(INSTALLED)
	$(BIN)/spectralgpt demo --output runs/demo --overwrite

# Everything that runs in a few minutes.
test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

# Training runs: kill and resume, two processes, the demo, the documents.
slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# Format, rules, types, and that all that is imported is declared.
lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/deptry .

check: lint test

# Mutated files for as long as one likes: make fuzz SPECTRALGPT_FUZZ_ROUNDS=20000
fuzz: export SPECTRALGPT_FUZZ_ROUNDS ?= 2000
fuzz: $(INSTALLED)
	$(BIN)/python -m pytest tests/fuzz

# The fast tests with the lowest versions that pyproject.toml claims. Old libraries warn
# of what newer ones will change: warnings are errors only with the newest.
TESTS ?= tests
lowest:
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --no-cache --resolution lowest-direct \
		--python $(VENV)-lowest/bin/python --editable ".[dev]"
	$(VENV)-lowest/bin/python -m pytest -m "not slow" -W default $(TESTS)

# The documentation in build/site, with notebooks that were run for it.
site: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	rm -rf build/notebooks && mkdir -p build && cp -r docs/notebooks build/notebooks
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter nbconvert --execute --inplace \
		build/notebooks/*.ipynb
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and source in dist/, as a registry would take them. What checks CITATION.cff wants
# an old jsonschema, and gets an environment of its own.
package: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(VENV)-cff
	$(VENV)-cff/bin/python -m pip install --quiet "cffconvert>=2.0"
	$(VENV)-cff/bin/cffconvert --validate

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-cff $(VENV)-lowest runs build dist
