# One environment, .venv, in two steps: `make demo` installs what training needs, the other targets the development tools.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.DEFAULT_GOAL := help
.PHONY: help demo dev lint test-fast test test-all coverage fuzz docs lock clean

help:
	@echo 'make demo       train on the bundled digits of MNIST and generate a seven'
	@echo 'make dev        install the development environment'
	@echo 'make lint       run ruff, mypy and the import contracts'
	@echo 'make test-fast  run the unit tests: no training, no browser, no other process'
	@echo 'make test       run the linters, and all tests except the slow ones'
	@echo 'make test-all   run the linters, and all tests'
	@echo 'make coverage   run the tests of `make test`, and list the lines that they do not reach'
	@echo 'make fuzz       fuzz the readers of untrusted files for MINUTES=10'
	@echo 'make docs       build the documentation site in build/site'
	@echo 'make lock       update the versions and hashes of packages that the workflows install'
	@echo 'make clean      remove the environment and all build output'

# With LOCKED=1, as in the workflows, pip installs the versions in .ci/dev.txt, and checks the hashes of their files.
ifdef LOCKED
define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/dev.txt
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch $@
endef
ATHERIS := --require-hashes --requirement .ci/tools.txt
else
# pip keeps the version of torch that is installed, such as a CPU build, instead of upgrading it to the default build.
define install
$(BIN)/python -c "from importlib.metadata import distributions as d; print(*{f'torch=={x.version}' for x in d(name='torch')})" \
  > $(VENV)/constraints.txt
$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable '.[$(1)]'
touch $@
endef
ATHERIS := 'atheris>=3'
endif

# A stamp file is newer than pyproject.toml if the environment has the packages that pyproject.toml lists.
$(VENV)/.train: pyproject.toml
	test -d $(BIN) || $(PYTHON) -m venv $(VENV)
	$(call install,train)

$(VENV)/.dev: pyproject.toml $(VENV)/.train
	$(call install,dev)

dev: $(VENV)/.dev

demo: $(VENV)/.train
	rm -rf demo
	$(BIN)/cvae train --arch resnet --conditional --out demo/run
	$(BIN)/cvae generate demo/run --digit 7 --seed 1 --out demo/seven.png
	$(BIN)/cvae generate demo/run --grid --out demo/digits.png
	@echo
	@echo 'Your seven: demo/seven.png; all ten digits: demo/digits.png. What to try next:'
	@echo '  $(BIN)/cvae interpolate demo/run --digit 3 --to-label 8 --to 0 --out demo/morph.gif'
	@echo '  $(BIN)/cvae train --data folder:PATH --conditional    images of your own, a subfolder per class'
	@echo '  $(BIN)/cvae --help'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m 'not slow and not integration'

test: lint
	$(BIN)/pytest -n 2

test-all: lint
	$(BIN)/pytest -n 2 -m 'slow or not slow'

coverage: $(VENV)/.dev
	$(BIN)/pytest -n 2 --cov --cov-report=term-missing:skip-covered

MINUTES ?= 10
HARNESSES := config detector image onnx spec weights

# atheris is not a development dependency, because it is not built for every Python. Without it, mutations are random.
fuzz: $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check $(ATHERIS)
	for harness in $(HARNESSES); do \
	  $(BIN)/python fuzz/harnesses.py $$harness -max_total_time=$$((60 * $(MINUTES) / $(words $(HARNESSES)))) \
	    -rss_limit_mb=1500 -timeout=10 -print_final_stats=1 || exit 1; \
	done

docs: $(VENV)/.dev
	$(BIN)/python docs/build_site.py

# New releases are left out for a week, in which most that contain malware are removed.
COMPILE := build/tools/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate \
  --python-version 3.11.5 --exclude-newer '7 days'

lock:
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/tools.txt
	$(COMPILE) pyproject.toml --extra dev --output-file .ci/dev.txt
	$(COMPILE) pyproject.toml --constraint .ci/dev.txt --output-file .ci/base.txt
	$(COMPILE) .ci/tools.in --constraint .ci/dev.txt --output-file .ci/tools.txt

clean:
	rm -rf $(VENV) demo build .cache .coverage *.egg-info
