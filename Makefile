# cmpd: everything that is done to this tree. It needs python3 (3.11 or newer) with venv, and make; `make` lists it all.
# What a target makes is remembered by a stamp in .venv, so a second run does nothing and says nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VAR := var
LISTEN := 127.0.0.1:8829
HTTP := 127.0.0.1:8830

# Debian packages that some tests want; without them those tests are skipped (in CI: fail).
TEST_PACKAGES := curl openssl systemd systemd-container

# How the tests are spread. A worker for each core that this process may use, but at most 8: the tests start servers of
# their own, and the slowest file sets the end anyway. A file stays on one worker, since its tests share a server; the
# files go out in the order of their names and not by their number of tests, so that the slow ones begin early.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
HASHED := install --require-hashes --no-deps
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/lock/bin/pip-compile --quiet --no-config --generate-hashes \
	--allow-unsafe --strip-extras --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-setup test-deps lint format bench lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | \
		while IFS='	' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.setup ## make .venv with cmpd and cmpc in it
	@:

run: $(VENV)/.setup ## start a demonstration server and print the line that gets a certificate from it
	@test -e $(VAR)/cmpd.toml || { echo "making a development CA in $(VAR)"; \
		$(BIN)/cmpd init --dir $(VAR) --tcp $(LISTEN) --http $(HTTP); }
	@test -s $(VAR)/demo.secret || ( umask 077; \
		$(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(24))' > $(VAR)/demo.secret )
	@$(BIN)/cmpd entity show demo --config $(VAR)/cmpd.toml > /dev/null 2>&1 || \
		$(BIN)/cmpd entity add demo --config $(VAR)/cmpd.toml --secret-file $(VAR)/demo.secret --uses unlimited
	@exec $(BIN)/python -m tests.demo $(VAR) $(LISTEN)

test: $(VENV)/.test lint ## check format, lint, types and imports, and run the tests
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(VENV)/.test ## check format, lint, types and imports only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.test ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test ## measure the server against the floor (writes build/bench.json)
	$(BIN)/python -m tests.bench

test-setup: $(VENV)/.test ## make .venv with the tools of the tests as well
	@:

test-deps: ## install the Debian packages that some tests want (as root or with sudo)
	@missing=$$(dpkg-query --show --showformat '$${Package} $${Status}\n' $(TEST_PACKAGES) 2>/dev/null \
		| awk '/ok installed$$/ { have[$$1] } END { split("$(TEST_PACKAGES)", want, " "); \
			for (i in want) if (!(want[i] in have)) print want[i] }'); \
	test -n "$$missing" || exit 0; \
	echo "installing" $$missing; \
	sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
	$$sudo apt-get -qq update && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$missing > /dev/null

lock: $(VENV)/.python ## choose the newest versions and write the lock files
	@test -x $(VENV)/lock/bin/pip-compile || { $(PYTHON) -m venv $(VENV)/lock && \
		$(VENV)/lock/bin/python -m pip --disable-pip-version-check --quiet install pip-tools; }
	$(LOCK) --upgrade --all-build-deps --output-file requirements.lock pyproject.toml
	$(LOCK) --upgrade --extra test --constraint requirements.lock --output-file requirements-test.lock pyproject.toml

clean: ## remove what was made here, except var (the development CA)
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find cmpd tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cmpd wants Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.x"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: $(VENV)/.python requirements.lock pyproject.toml
	@echo "installing cmpd and what it needs"
	@$(PIP) $(HASHED) -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.setup requirements-test.lock
	@echo "installing the tools of the tests"
	@$(PIP) $(HASHED) -r requirements-test.lock
	@touch $@
