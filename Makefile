# Two commands: `make serve` and `make test`. The first run of each installs; a second installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Whose networks are tried. In a folder of their own: beside a PyTorch without CUDA, transformers cannot be imported where
# this torchvision is installed.
NETWORKS := timm==1.0.31 torchvision==0.28.0 segmentation-models-pytorch==0.6.0 peft==0.21.2 accelerate==1.15.0 \
	pillow==13.0.0 psutil==7.2.2

# What checks the types of the page's scripts.
TYPESCRIPT := 5.9.3

# How what the images install is locked: for every platform, by the hashes of all files that a version has.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' $(UPGRADE)
IMAGE := --extra grpc --extra images --extra otel --extra zstd

.PHONY: serve test test-long lint lock docs wheels bench clean

serve: $(VENV)/.installed
	$(BIN)/mcdropout serve --models models --default mnist-cnn

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --long --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile
	$(BIN)/node $(VENV)/node/node_modules/typescript/bin/tsc --project tests/page/jsconfig.json

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build --fail-on-warning --quiet --builder html docs docs/_build/html

# Versions stay as they are where they are still accepted; `make lock UPGRADE=--upgrade` takes the newest.
lock: $(VENV)/.installed-dev
	$(LOCK) --group pyproject.toml:build --output-file deploy/locks/build.txt
	$(LOCK) $(IMAGE) pyproject.toml --output-file deploy/locks/cpu.txt
	$(LOCK) $(IMAGE) --extra gpu --constraint deploy/locks/cpu.txt pyproject.toml --output-file deploy/locks/gpu.txt

# What a release consists of, in dist/.
wheels: $(VENV)/.installed-dev
	PYTHON=$(BIN)/python deploy/wheels.sh

# Both need the MNIST files: MCDROPOUT_MNIST=FOLDER, else ../shared/data/mnist.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.engine --peers $(VENV)/peers
	$(BIN)/python -m benchmarks.zoo
	$(BIN)/python -m benchmarks.dense
	$(BIN)/python -m benchmarks.networks --libraries $(VENV)/networks
	$(BIN)/python -m benchmarks.http
	$(BIN)/python -m benchmarks.load --peers $(VENV)/peers
	$(BIN)/python -m benchmarks.load.ray
	$(BIN)/python -m benchmarks.sizing
	$(BIN)/python -m benchmarks.attack
	$(BIN)/python -m benchmarks.first_hour
	$(BIN)/python -m benchmarks.start --plain $(VENV)/plain/bin/python

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/npm install --silent --no-audit --no-fund --no-save --prefix $(VENV)/node typescript@$(TYPESCRIPT)
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m pip download --quiet --no-deps -d $(VENV)/peers torch-uncertainty==0.13.0 baal==2.1.0
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target $(VENV)/networks $(NETWORKS)
	$(PYTHON) -m venv $(VENV)/plain
	$(VENV)/plain/bin/python -m pip install --quiet --editable .
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV)
