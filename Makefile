# The one list of commands; CI calls these. `make help` shows them.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The working directory must stay off sys.path: other packages probe for a module named like our folder `kernels`.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8000
MODEL ?=
ARGS ?=
# A machine with its own torch: make install TORCH="torch>=2.11" CONSTRAINTS=
TORCH ?= torch==2.13.0
CONSTRAINTS ?= -c constraints.txt

RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
CLIENTS_VENV := .venv-clients
CLIENTS := $(CLIENTS_VENV)/.installed

.PHONY: help install serve chat test check fmt protos demo-model bench bench-grammar bench-lang bench-gpu test-gpu grammar-long compose-test clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(DEV) $(CLIENTS) ## Create .venv with everything to run, test and check, and .venv-clients

serve: $(RUNTIME) ## Install what is needed and serve the demo model: make serve [PORT=8137] [MODEL=DIR] [ARGS="…"]
	@exec $(BIN)/bough serve $(MODEL) --port $(PORT) $(ARGS)

chat: $(RUNTIME) ## Talk to the server that `make serve` started: make chat [PORT=8137]
	@exec $(BIN)/bough chat --url http://127.0.0.1:$(PORT) $(ARGS)

# All of them by several processes, and some by one, which starts sooner.
WORKERS ?= 2
test: $(DEV) $(CLIENTS) ## Run all tests, or some: make test [WORKERS=2] [ARGS="tests/cli -k health"]
	@$(BIN)/python -m pytest $(or $(ARGS),-n $(WORKERS) --dist loadgroup --no-loadscope-reorder)

check: $(DEV) ## Formatting, lint, types, and what tests/repo holds of the repository
	@$(BIN)/ruff format --check --quiet . || { echo "run: make fmt"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/repo

fmt: $(DEV) ## Format and fix what can be fixed
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

protos: $(DEV) ## Generate protos/gen from protos/
	@$(BIN)/python scripts/gen_protos.py

demo-model: $(DEV) ## Train the demo model anew (minutes on a GPU)
	@$(BIN)/python -m bough.demo.train $(ARGS)

# Other engines are measured too where their environments are named: make bench PEER_VLLM=/path/to/python
PEER_VLLM ?=
PEER_TRANSFORMERS ?= $(BIN)/python
BENCH = all --json .bench/result.json --peer-transformers $(PEER_TRANSFORMERS) \
	$(if $(PEER_VLLM),--peer-vllm $(PEER_VLLM))

bench: $(DEV) ## Measure speed and memory; the table of the README: make bench [PEER_VLLM=PYTHON] [ARGS="chat --rate 2"]
	@exec $(BIN)/bough bench $(if $(ARGS),$(ARGS),$(BENCH))

bench-grammar: $(DEV) ## Measure structured output, with jump-forward and without: make bench-grammar [MODEL=DIR] [ARGS=--small]
	@exec $(BIN)/bough bench grammar $(if $(MODEL),--model-dir $(MODEL)) --json .bench/grammar.json $(ARGS)

bench-lang: $(DEV) ## Measure programs, in the language and by hand: make bench-lang [MODEL=DIR] [ARGS=--small]
	@exec $(BIN)/bough bench lang $(if $(MODEL),--model-dir $(MODEL)) --json .bench/lang.json $(ARGS)

# On a machine with a GPU and a Python of its own that has torch: scripts/gpu/setup.sh makes the rest.
GPU_PYTHON ?= python3
bench-gpu: ## Measure on a GPU beside the peers that are there: make bench-gpu [ARGS="--models qwen3-8b --parts offline"]
	@exec bash -c '. scripts/gpu/setup.sh && exec $(GPU_PYTHON) -m bough.cli.main bench gpu \
		--peers-dir "$$GPU_PEERS" --json .bench/gpu.json $(ARGS)'

# The plugins that happen to be installed beside pytest there are no part of our tests. Most of the time goes into
# compiling kernels, one core each, so that many processes share the GPU; torch's own threads would only be in the way.
test-gpu: ## Run the tests of the kernels and of the executor on a GPU: make test-gpu [ARGS="tests/gpu -k decode"]
	@exec bash -c '. scripts/gpu/setup.sh && export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 OMP_NUM_THREADS=2 && exec $(GPU_PYTHON) \
		-m pytest -p pytest_asyncio.plugin -p pytest_timeout -p xdist.plugin --numprocesses 12 --dist worksteal \
		$(if $(ARGS),$(ARGS),tests/gpu tests/kernels/gpu)'

grammar-long: $(DEV) ## Outputs under 1,000 random schemas, each validated; the same with jump-forward as without under 500: make grammar-long [SCHEMAS=1000]
	@BOUGH_RANDOM_SCHEMAS=$(or $(SCHEMAS),1000) $(BIN)/python -m pytest -q --timeout 7200 \
		tests/grammar/test_random_schemas.py tests/executor/test_jump_forward_schemas.py

compose-test: $(DEV) ## Try the containers; needs a docker engine
	@$(BIN)/python -m pytest tests/docker $(ARGS)

clean: ## Remove the environment and what tools left
	rm -rf $(VENV) $(CLIENTS_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build .bench

# Torch first and alone: its build (CPU or CUDA) is chosen by the machine's package index, and the rest follows it.
$(RUNTIME): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; torch takes the longest)"
	@$(BIN)/python -m pip install -qq "pip>=25.1"
	@$(BIN)/python -m pip install -qq "$(TORCH)" $(CONSTRAINTS)
	@$(BIN)/python -m pip install -qq -e ".[all]" $(CONSTRAINTS)
	@touch $@

$(DEV): $(RUNTIME)
	@$(BIN)/python -m pip install -qq --group dev $(CONSTRAINTS)
	@touch $@

# Libraries that talk to the server in tests/integration; they cannot live beside what the other tests need.
$(CLIENTS): pyproject.toml constraints-clients.txt | $(DEV)
	@test -x $(CLIENTS_VENV)/bin/python || $(PYTHON) -m venv $(CLIENTS_VENV)
	@echo "installing client libraries into $(CLIENTS_VENV) (once)"
	@$(CLIENTS_VENV)/bin/python -m pip install -qq "pip>=25.1"
	@$(CLIENTS_VENV)/bin/python -m pip install -qq --group clients -c constraints-clients.txt
	@touch $@
