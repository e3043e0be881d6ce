# make demo: install and run the main job on the bundled data.  make test: install and test.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint bench clean

$(VENV)/bin/python:
	$$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)

# torch first: with the pinned version installed, nothing pulls another build of it
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) -e .[all,test,lint]
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.tested
	$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy segflow operators

bench: $(VENV)/.tested
	$(PIP) -e .[bench]
	$(BIN)/python -m benchmarks

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
