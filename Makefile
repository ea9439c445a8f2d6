# make provision   serve a model on this machine
# make test        everything that CI runs
# make test-full   what CI leaves out for its size or time
# make check       the quick inner loop: lint, types, unit tests
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INVENTORY ?= inventories/local.ini
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help provision stop status check lint types unit test test-full test-cuda accuracy oracle bench docs lock clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# -- the product ------------------------------------------------------------
provision: $(VENV)/.run ## probe, plan, install, start and prove a model on this machine
	@$(BIN)/infra-llm provision --inventory $(INVENTORY) $(ARGS)

stop: $(VENV)/.run ## undo make provision
	@$(BIN)/infra-llm remove --inventory $(INVENTORY) $(ARGS)

status: $(VENV)/.run ## what runs on this machine
	@$(BIN)/infra-llm status --inventory $(INVENTORY) $(ARGS)

# -- environments, from the lock files ----------------------------------------
$(VENV)/.run: requirements/run.lock pyproject.toml tools/environment.sh
	@tools/environment.sh run $(VENV) $(PYTHON)

$(VENV)/.dev: requirements/dev.lock pyproject.toml tools/environment.sh
	@tools/environment.sh dev $(VENV) $(PYTHON)

lock: ## write the lock files again (needs uv)
	tools/lock.sh

# -- tests --------------------------------------------------------------------
lint: $(VENV)/.dev ## ruff, yamllint, ansible-lint
	ruff check .
	ruff format --check .
	yamllint --strict .
	ansible-lint --profile production --offline --strict

types: $(VENV)/.dev ## mypy, strict
	mypy

unit: $(VENV)/.dev ## unit and CLI tests
	pytest -n auto tests/unit

check: lint types unit ## the inner loop: no root, two to three minutes on two cores

accuracy: $(VENV)/.dev ## the planner against public logs, as a table
	python -m tests.accuracy.run

oracle: $(VENV)/.dev ## the planner against the engine's own estimates of 90 architectures, live
	python -m tests.accuracy.sweep

bench: $(VENV)/.dev ## times and ratios as tables (needs root: hosts are made and provisioned)
	tests/bench/run-all.sh

docs: $(VENV)/.dev ## write the generated references again
	python tools/reference.py

test: ## everything: lint, types, unit, CLI, accuracy, end to end, molecule on real hosts
	tests/run-all.sh

test-full: $(VENV)/.dev ## what CI leaves out for its size or time: CUDA's packages, vLLM, llama-cpp-python, builds of llama.cpp
	INFRA_LLM_TEST_FULL=1 pytest tests/e2e/test_cuda_wheels.py
	pytest tests/full
	pytest tests/e2e/test_rocky.py
	pytest tests/e2e/test_vllm.py
	pytest tests/e2e/test_source.py
	pytest tests/e2e/test_llama_cpp_python.py
	pytest tests/e2e/test_programs.py

test-cuda: $(VENV)/.dev ## compile and link llama.cpp with CUDA out of wheels, on a test host: over an hour the first time
	pytest -s tests/cuda

clean: ## remove the environment and caches of this checkout
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .ansible

include mk/lab.mk
include mk/vm.mk
