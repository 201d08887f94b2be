# The commands of the README. `make help` lists them.
#
#   PYTHON       interpreter for the environment; unset: the first Python 3.11-3.13 on the machine
#   TORCH_INDEX  package index to take PyTorch from, for another build of it; unset: pip's own
#   CONSTRAINTS  versions of everything else; empty (CONSTRAINTS=): the newest that pyproject.toml accepts
#   VENV         where the environment is made
#   ARGS         passed on to the command: make test ARGS="-k cameras"

PYTHON ?=
TORCH_INDEX ?=
CONSTRAINTS ?= requirements-ci.lock
VENV ?= .venv
ARGS ?=

TORCH := torch==2.13.0
STAMP := $(VENV)/.scaledreamer-installed
ACTIVATE := export PATH="$$(cd "$(VENV)" && pwd)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench

help:            ## list the commands
	@grep -E '^[a-z]+: .*## ' Makefile | sed -E 's/^([a-z]+): .*## /  make \1\t/' | expand -t 16

setup: $(STAMP)  ## make the environment, once
	@echo "environment: $(VENV)"

demo: $(STAMP)   ## train on the embedded prior, generate unseen prompts, evaluate: outputs/demo/index.html
	@$(ACTIVATE); python tools/demo.py $(ARGS)

test: $(STAMP)   ## run the tests
	@$(ACTIVATE); python -m pytest $(ARGS)

lint: $(STAMP)   ## ruff (lint and format) and pyright
	@$(ACTIVATE); export PYRIGHT_PYTHON_IGNORE_WARNINGS=1; failed=0; \
	ruff check --output-format concise . || failed=1; \
	ruff format --check . || failed=1; \
	pyright --pythonpath "$$(command -v python)" || failed=1; \
	exit $$failed

bench: $(STAMP)  ## each part's share of a training step
	@$(ACTIVATE); python -m tools.benchmark step $(ARGS)

# PyTorch comes first and alone: with the other packages, an open range could bring another build of it.
$(STAMP): pyproject.toml requirements-ci.lock
	@python="$(PYTHON)"; \
	for candidate in python3.11 python3.12 python3.13 python3 python; do \
	    [ -z "$$python" ] || break; \
	    "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	        >/dev/null 2>&1 && python="$$candidate"; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: no Python 3.11, 3.12 or 3.13 with its venv module was found on the PATH." >&2; \
	    echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	"$(VENV)/bin/python" -m pip install $(if $(CONSTRAINTS),--constraint "$(CONSTRAINTS)") "$(TORCH)" --editable ".[dev]"
	@touch "$@"
