# `make run` and `make test` do their whole set-up with Python >= 3.11 and pip alone.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
WORKERS ?= auto
LOCK    = --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
          --custom-compile-command 'make lock'

.PHONY: run test agents fuzz faults fleet soak check coverage bench bench-peers docs images audit lock clean

run: $(VENV)/.installed
	@$(BIN)/agent-telemetry serve $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# A hundred thousand examples of each property, about a quarter of an hour.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=fuzz tests/pipeline/test_properties.py $(ARGS)

# Every fault suite in full, about an hour; goes on where it stopped, and writes docs/faults.md.
faults: $(VENV)/.installed-test
	$(BIN)/python -m tests.faults

# Six sidecars, three recorders and three servers of NATS: kills in turn, an outage, turns, costs.
fleet: $(VENV)/.installed-test
	FAULTS=full $(BIN)/python -m pytest -q tests/faults/test_fleet.py tests/fleet/test_fleet.py $(ARGS)
	$(BIN)/python -m bench.fleet

# Real frameworks, each in an environment of its own under .agents, through the gateway; a few minutes.
# Writes what they sent (tests/agents/kept) and how well it was understood (docs/turns.md).
agents: $(VENV)/.installed-test
	$(BIN)/python -m tests.agents $(ARGS)
	$(BIN)/python -m bench.agents --write docs/turns.md

# Calls with a random fault each minute, then the ledger against the table: make soak MINUTES=60
MINUTES ?= 10
soak: $(VENV)/.installed-test
	FAULTS=full SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -q tests/faults/test_soak.py $(ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term-missing:skip-covered $(ARGS)

# Comparisons with nginx, a frozen reference and, once bench-peers has run, LiteLLM and Portkey.
# A few minutes; ARGS="--rounds 9 --seconds 4 --write" is the long form that the documentation shows.
bench: $(VENV)/.installed-test
	$(BIN)/python -m bench.compare $(ARGS)

bench-peers: $(VENV)/.installed-test
	$(BIN)/python -m bench.peers

# The parts of docs/ that follow from the program: configuration, metrics, the table.
docs: $(VENV)/.installed-test
	$(BIN)/python -m tests.docs.generate

# The images of the web page; needs Chromium.
images: $(VENV)/.installed-test
	$(BIN)/python -m tests.web.images

# Licences, files that run by themselves, an SBOM, known vulnerabilities.
audit: $(VENV)/.installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[audit]'
	$(BIN)/python -m tests.security.supply build/sbom.json

# The locks that the image is made from; review what changed.
lock: $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet $(LOCK) --extra uvloop --extra otel --extra nats pyproject.toml -o requirements.lock
	echo 'setuptools>=77' | $(BIN)/uv pip compile --quiet $(LOCK) - -o requirements-build.lock

# A venv that cannot be made (no ensurepip on some distributions) is made by virtualenv instead.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: Python 3.11 or newer is needed; set PYTHON=python3.x"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV); $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); }

$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "installing agent-telemetry into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[uvloop]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[uvloop,test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
