# Test hosts (docs/test-hosts.md), included by the Makefile. The hosts need no environment, only
# Python 3.11; the scenarios need the dev environment.
PYTHON ?= python3
VENV ?= .venv
HOSTS ?= node1,node2
SUITE ?= bookworm
GPUS ?=
SCENARIOS ?=
JOBS ?= 1

.PHONY: lab lab-destroy lab-status lab-swap molecule

lab: ## start two test hosts and write lab.ini (HOSTS=a,b:trixie GPUS=rtx3060,h100x8)
	@$(PYTHON) -m tests.lab up --hosts '$(HOSTS)' --suite '$(SUITE)' --gpus '$(GPUS)'

lab-destroy: ## remove the test hosts
	@$(PYTHON) -m tests.lab down

lab-status: ## show the test hosts as JSON
	@$(PYTHON) -m tests.lab status

lab-swap: ## give a running test host other GPUs (HOST=node1 GPUS=h100x8)
	@$(PYTHON) -m tests.lab swap '$(HOST)' '$(GPUS)'

molecule: $(VENV)/.dev ## run molecule scenarios (SCENARIOS="a b" JOBS=2)
	@$(VENV)/bin/python -m tests.lab molecule --jobs '$(JOBS)' $(SCENARIOS)
