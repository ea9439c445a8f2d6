# Test hosts (docs/test-hosts.md). Included by the Makefile, which may set LAB_PYTHON.
LAB_PYTHON ?= python3
HOSTS ?= node1,node2
SUITE ?= bookworm
GPUS ?=
SCENARIOS ?=
JOBS ?= 1

.PHONY: lab lab-destroy lab-status lab-swap molecule

lab: ## start two test hosts and write lab.ini
	$(LAB_PYTHON) -m tests.lab up --hosts '$(HOSTS)' --suite '$(SUITE)' --gpus '$(GPUS)'

lab-destroy: ## remove the test hosts
	$(LAB_PYTHON) -m tests.lab down

lab-status: ## show the test hosts as JSON
	$(LAB_PYTHON) -m tests.lab status

lab-swap: ## give a running host other GPUs: make lab-swap HOST=node1 GPUS=h100x8
	$(LAB_PYTHON) -m tests.lab swap '$(HOST)' '$(GPUS)'

molecule: ## run the molecule scenarios (SCENARIOS="a b", JOBS=2 for two side by side)
	$(LAB_PYTHON) -m tests.lab molecule --jobs '$(JOBS)' $(SCENARIOS)
