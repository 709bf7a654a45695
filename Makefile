# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := tests/clients
BOARD := examples/board
PORT := 8000
GRAPHIQL := clients/graphiql
ASSETS := gqlnotify/http/assets
ROUNDS := 20
CUTS := 100
MINUTES := 20
SEEDS := 1000
LISTS := 1000
KILLS := 100
COMPAT := .venv-compat
COMPAT_TESTS := $(addprefix tests/,connections execution http server websocket test_drop_in.py test_frameworks.py) $(wildcard tests/test_router*.py)
SECONDS := 60
# Most tests wait for other processes: more of them at once than there are cores.
PROCESSES := 4
# Else each of the hundreds of servers that the tests start would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install serve graphiql explore example example-test unit test compile compat chaos live-lists simulate clients rolling outbox-kills soak fuzz conformance conformance-resume bench check fmt cov clean
.DEFAULT_GOAL := help

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Make .venv with everything that development needs

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev --editable '.[all]'
	@touch $@

%/node_modules/.installed: %/package.json
	npm install --prefix $* --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

# One try: without npm or a network, the service must start all the same, and soon.
$(ASSETS)/.installed: $(wildcard $(GRAPHIQL)/*.json $(GRAPHIQL)/*.mjs $(GRAPHIQL)/src/*)
	npm install --prefix $(GRAPHIQL) --no-package-lock --no-audit --no-fund --loglevel=error \
		--fetch-retries=0 --fetch-timeout=60000
	npm run --prefix $(GRAPHIQL) --silent build -- $(CURDIR)/$(ASSETS)
	@touch $@

graphiql: $(ASSETS)/.installed  ## Build the page of GraphiQL (needs npm)

serve: install  ## Run the task service on http://127.0.0.1:8000
	@$(MAKE) --no-print-directory graphiql || echo "GraphiQL is not built. Its page says how to build it."
	$(BIN)/gqlnotify serve

explore: install graphiql  ## Test the page of GraphiQL in Chromium
	EXPLORE=1 $(BIN)/python -m pytest tests/explore

$(BOARD)/node_modules/.installed: $(BOARD)/package.json
	npm install --prefix $(BOARD) --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

$(BOARD)/dist/index.html: $(BOARD)/node_modules/.installed $(wildcard $(BOARD)/*.html $(BOARD)/*.ts $(BOARD)/src/*)
	npm run --prefix $(BOARD) build

example: install $(BOARD)/dist/index.html  ## Build the task board of examples/board and serve it (PORT=8000)
	$(BIN)/uvicorn server:app --app-dir $(BOARD) --port $(PORT) --no-access-log \
		--ws gqlnotify.server:WebSocketProtocol --timeout-graceful-shutdown 2

example-test: install $(BOARD)/dist/index.html  ## Test the task board in two windows of Chromium
	$(BIN)/python -m pytest tests/test_example_board.py tests/e2e/test_board_page.py

unit: install  ## Run the tests that start no process and no server, in less than a minute
	$(BIN)/python -m pytest -m "not processes"

test: install $(CLIENTS)/node_modules/.installed  ## Run every test (TEST_PATIENCE=3: with longer deadlines)
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

# pytest compiles tests in a way of its own. Without this, each of its processes does it. What can't be
# collected is shown by `make test`.
compile: install
	@$(BIN)/python -m pytest --collect-only --quiet >/dev/null || true

compat: compat-oldest compat-newest  ## Test with the oldest and the newest frameworks

compat-%: $(COMPAT)/%/.installed
	$(COMPAT)/$*/bin/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(COMPAT_TESTS)

# Those of .venv, with the few that differ before them: a whole environment takes ten times as long.
$(COMPAT)/oldest/.installed: $(VENV)/.installed tests/oldest.txt
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --no-deps --requirement tests/oldest.txt
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(\"%s\")" % sysconfig.get_path("purelib"))' \
		> $$(echo $(@D)/lib/python*/site-packages)/venv.pth
	$(BIN)/python -m pip --python $(@D)/bin/python check
	@touch $@

$(COMPAT)/newest/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --group dev --editable '.[all]'
	@touch $@

chaos: install $(CLIENTS)/node_modules/.installed  ## Break everything in turn and count what clients get (ROUNDS=20)
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS)

live-lists: install  ## Compare the live lists of many clients with the database after cuts and losses (LISTS=1000)
	$(BIN)/python -m tests.live_list_storm --clients $(LISTS)
	$(BIN)/python -m tests.live_list_storm --clients $(LISTS) --redis

simulate: install  ## Run processes, Redis and clients in virtual time, with faults from each seed (SEEDS=1000)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

clients: install $(CLIENTS)/node_modules/.installed $(CLIENTS)/matrix/node_modules/.installed  ## See what each client loses (writes the table of docs/clients.md; CUTS=100)
	$(BIN)/python -m tests.matrix --cuts $(CUTS)
	$(BIN)/python -m tests.matrix.blind

outbox-kills: install  ## Kill processes at the worst instants of an outbox (KILLS=100 for each database)
	OUTBOX_KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/outbox/test_kills.py

soak: install  ## Have 1000 connections come and go, well and badly, and see what is left (MINUTES=20)
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

rolling: install $(CLIENTS)/node_modules/.installed  ## Restart two servers in turn under load, ROUNDS times
	$(BIN)/python -m tests.rolling --restarts $(ROUNDS)

fuzz: install  ## Send what no honest client does, and count what comes of it (SECONDS=60 for each part)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)
	$(BIN)/python -m tests.fuzz.atheris_core --seconds $(SECONDS)
	FUZZ_EXAMPLES=$(SECONDS) $(BIN)/python -m pytest -s tests/fuzz/test_http.py

conformance: install  ## Run all of Autobahn's cases against our WebSocket class and uvicorn's own
	$(BIN)/python -m tests.conformance

conformance-resume: install  ## Check a server against docs/spec.md (URL=..., BROKER=redis, see docs/spec.md)
	$(BIN)/python -m tests.conformance.resume $(if $(URL),--url $(URL)) $(if $(CONTRACT),--contract '$(CONTRACT)') \
		$(if $(TOKEN),--token '$(TOKEN)') $(if $(OTHER_TOKEN),--other-token '$(OTHER_TOKEN)') \
		$(if $(BROKER),--broker $(BROKER)) $(if $(CHECKS),--checks $(CHECKS)) $(if $(JSON),--json)

bench: install  ## Measure this server and others side by side (writes benchmarks/RESULTS.md)
	$(BIN)/python -m benchmarks

cov: install $(CLIENTS)/node_modules/.installed  ## Run the tests and show which branches they miss
	$(BIN)/python -m coverage run -m pytest  # not --cov: pytest imports our plugin before it would measure
	$(BIN)/python -m coverage report --show-missing --skip-covered

check: install  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: install  ## Format the code and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what the other targets made
	rm -rf $(VENV) $(COMPAT) $(CLIENTS)/node_modules $(CLIENTS)/matrix/node_modules $(BOARD)/node_modules $(BOARD)/dist \
		$(GRAPHIQL)/node_modules $(ASSETS) \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
