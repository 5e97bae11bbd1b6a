# make demo: from nothing to a generated seven. make test: linters, types, import contracts, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint clean

help:
	@echo 'make demo      train on the bundled digits, export, generate a 7'
	@echo 'make test      linters, types, import contracts and tests'
	@echo 'make test-all  the same with the slow tests (minutes of training each)'

# The stamp is newer than pyproject.toml once the environment holds what that asks for.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	rm -rf demo
	$(BIN)/cvae train --arch resnet --conditional --out demo/run
	$(BIN)/cvae export onnx demo/run
	$(BIN)/cvae generate demo/run --digit 7 --seed 7 --temperature 0.7 --out demo/seven.png
	$(BIN)/cvae generate demo/run --grid --out demo/digits.png
	@echo 'Your seven: demo/seven.png; all ten digits: demo/digits.png'

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2

test-all: lint
	$(BIN)/pytest -n 2 -m 'slow or not slow'

clean:
	rm -rf $(VENV) demo build *.egg-info
