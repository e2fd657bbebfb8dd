# Firmline. `make demo` and `make test` are all a new machine needs; the rest is here: `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
.DEFAULT_GOAL := help
.PHONY: install demo run test check format bench benchpbx pbx screenshots clean help tools

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(READY) ## the environment in .venv, with everything the other targets need

$(READY): pyproject.toml
	@echo "firmline: setting up $(VENV) (a few minutes the first time, nothing the next)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' \
	  || { echo "firmline: Python 3.11 to 3.13 is needed; try: make install PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[hotkey]' >/dev/null 2>&1 \
	  || echo "firmline: \`firmline hotkey\` is left out: its library needs a C compiler and Python's headers (its test will be skipped)"
	@touch $(READY)

demo: $(READY) ## two live calls on this machine: an abusive caller is warned and handed on, an upset one is left alone
	@$(BIN)/firmline demo $(ARGS)

run: $(READY) ## the service, with ./config.yaml
	@$(BIN)/firmline run $(ARGS)

tools: # programs the tests drive: sipp (a SIP peer), espeak-ng and flite (voices), Chromium with axe-core (the pages)
	@deploy/test-tools.sh

test: $(READY) tools ## the test suite (real SIP, RTP and Whisper on loopback; under 10 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(READY) ## format, lint, types (Python, and the pages where npm is) and import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@deploy/check-web.sh

format: $(READY) ## put the code into the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) tools ## measure; the tables of docs/benchmarks*.md (about 25 minutes; leave the machine alone meanwhile)
	@$(BIN)/firmline bench reaction $(ARGS)
	@$(BIN)/firmline bench capacity --calls 60 --no-drafts $(ARGS)
	@$(BIN)/firmline bench capacity --calls 25 $(ARGS)
	@$(BIN)/firmline bench ears $(ARGS)
	@$(BIN)/python -m tests.web.bench_wall

benchpbx: $(READY) ## measure thirty calls at once beside the Asterisk of `make pbx` (root only; about two minutes)
	@$(BIN)/python -m tests.ivr.pbx.bench_pbx $(ARGS)

pbx: ## a real Asterisk in a folder of its own, built once; the tests use it when it is there (root only; PBX=16 for 16.28)
	@PBX=$(PBX) deploy/asterisk/build.sh

screenshots: $(READY) tools ## pictures of every state of the pages, into docs/img (needs pngquant; best with the font Inter)
	@$(BIN)/python -m tests.web.screenshots $(ARGS)

clean: ## remove the environment and everything made by running
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache firmline-demo tests/web/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
