# Everything runs from a bare clone: only Python >= 3.11 and a package registry are needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
# Compiled tests and sources are kept, else each process of each run compiles them anew.
export PYTHONDONTWRITEBYTECODE =

# torchvision's wheels ask for a torch with CUDA, so timm and torchvision live in an environment of their own, without dependencies.
VISION := .venv-vision
PEER := .venv-peer
VISION_PINS := timm==1.0.31 torchvision==0.29.2

.PHONY: setup demo test test-learning test-e2e test-clusters test-all test-avx2 test-wheel test-vision check bench bench-peer faults docs site constraints clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@echo "installing into $(VENV)"
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")}" \
	  $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/undistill demo -o $(OUT)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# Processes, browsers and whole commands.
test-e2e: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m e2e $(ARGS)

# Claims in miniature about what is learned.
test-learning: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "learning and not e2e" $(ARGS)

# Ray with two nodes, and Slurm where its daemons are installed (Debian: slurmctld slurmd slurm-client munge).
test-clusters: setup
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")}" \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[ray,slurm]'
	$(BIN)/python -m pytest -m clusters $(ARGS) tests/clusters

test-all: test test-learning test-e2e

# Learned accuracies move with the instruction set: what is claimed of them must hold with the smaller one too.
test-avx2: setup
	@if $(BIN)/python -c 'import sys, torch; sys.exit(torch.backends.cpu.get_cpu_capability() != "AVX2")'; \
	then echo "this processor has no more than AVX2: test-learning has tried it"; \
	else ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2 --dist worksteal -m learning $(ARGS); fi

# Builds a wheel and an sdist, installs them and runs what they bring.
test-wheel: setup
	$(BIN)/python -m pytest -m slow tests/whole/test_wheel.py $(ARGS)

test-vision: $(VISION)/.vision
	$(VISION)/bin/python -m pytest -m vision $(ARGS) tests/vision

$(VISION)/.vision: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory VENV=$(VISION) setup
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")}" \
	  $(VISION)/bin/uv pip install --quiet --compile-bytecode --python $(VISION)/bin/python --no-deps $(VISION_PINS)
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `make bench ARGS='--only loop grid --out evidence/bench-here.json'`; every arm chooses its own threads.
bench: setup
	env -u OMP_NUM_THREADS $(BIN)/python -m benchmarks $(ARGS)

# The same with torchdistill beside it, in an environment of its own: what it depends on would bring CUDA along.
bench-peer: $(PEER)/.peer
	env -u OMP_NUM_THREADS $(BIN)/python -m benchmarks --peer $(PEER)/bin/python $(ARGS)

$(PEER)/.peer: $(STAMP)
	@$(MAKE) --no-print-directory VENV=$(PEER) setup
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")}" \
	  $(PEER)/bin/uv pip install --quiet --python $(PEER)/bin/python --no-deps torchdistill==1.1.5 torchvision==0.29.2
	@touch $@

# Breaks things on purpose and counts what is left: half an hour, as root, with gcc and faketime where they are installed.
faults: setup
	$(BIN)/python -m studies.faults.faults --out evidence/faults.json $(ARGS)

docs: setup
	$(BIN)/python -m docs.make

# The documentation site, in build/site; a warning is an error.
site: setup
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")}" \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Pins everything but the CUDA packages that torch's newest wheels bring along.
constraints: setup
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null)}" \
	  $(BIN)/uv pip compile --quiet --universal --upgrade --extra dev --extra docs --extra ray --extra slurm --no-annotate --no-header pyproject.toml -c <(echo 'torch==2.13.0') \
	  | grep -vE '^(nvidia-|cuda-|triton|torch==)' > constraints.new
	(echo 'torch==2.13.0'; cat constraints.new) | sort > constraints.txt && rm constraints.new

clean:
	rm -rf $(VENV) $(VISION) $(PEER) dist build .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
