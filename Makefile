# Everything a newcomer or a maintainer runs.  `make` alone lists the targets.
# One private virtual environment, .venv; each target installs only what it needs, and only once.

PYTHON ?= python3
ADDR   ?= 127.0.0.1:9000
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run build test test-pure test-asan test-fault lint format bench bench-setup bench-framing bench-peers bench-loop bench-output \
        annotate clean check-machine

help:                 ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build            ## start the chat server and its page on 127.0.0.1:9000 (ADDR=host:port)
	@$(BIN)/evloop serve chat $(ADDR)

build: $(VENV)/.built ## make the virtual environment and compile the extension

test: build $(VENV)/.test  ## run all tests
	$(BIN)/python -m pytest

test-pure: build $(VENV)/.test  ## run the tests as a machine without the extension would
	EVLOOP_PURE=1 $(BIN)/python -m pytest --pure-only

test-asan: build $(VENV)/.test  ## run the tests under AddressSanitizer and UBSan, 5 minutes (ARGS=tests/contract)
	@.ci/test-asan $(ARGS)

test-fault: build $(VENV)/.test  ## run the fault catalogue: hostile peers, broken networks, a kernel that fails
	$(BIN)/python -m pytest -m fault tests/fault

.PHONY: test-all
test-all:             ## run tests and conformance on each of Python 3.10 to 3.13 that is found (ARGS=-x)
	@.ci/test-all $(ARGS)

.PHONY: conformance
conformance: build    ## run CPython's own asyncio tests on our event loop (ARGS="--pure test_events")
	@$(BIN)/python tests/conformance/cpython.py $(ARGS)

.PHONY: screenshots
screenshots: build $(VENV)/.test  ## make the README's pictures of the chat, docs/images, by the tests
	@mkdir -p docs/images
	EVLOOP_PICTURES=docs/images $(BIN)/python -m pytest -q -k picture tests/apps

lint: build $(VENV)/.lint $(VENV)/.test  ## ruff, mypy --strict, cython-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(BIN):$$PATH" cython-lint evloop/*.pyx evloop/*.pxd evloop/aio/*.pyx evloop/aio/*.pxd evloop/bench/*.pyx

format: $(VENV)/.lint ## format the Python files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-setup: build $(VENV)/.bench  ## install what is measured against: Twisted, uvloop, gevent, ...

# The first run has nothing to be compared with, which pytest-benchmark takes for an error.
bench: build $(VENV)/.bench  ## pytest-benchmark, saved and compared with the last saved run (ARGS="-k echo")
	$(BIN)/python -m pytest bench --benchmark-autosave $(if $(wildcard .benchmarks/*/*.json),--benchmark-compare) $(ARGS)

.PHONY: bench-report
bench-report: build $(VENV)/.bench  ## measure every number and picture of README and docs, and write them (QUICK=1)
	$(BIN)/python bench/publish.py $(if $(QUICK),--quick) $(ARGS)

bench-framing: build $(VENV)/.bench  ## the framing table: ns/frame, MB/s, ratios
	$(BIN)/evloop bench framing $(ARGS)

bench-peers: build $(VENV)/.bench  ## evloop, its rivals and a C server under the same load (ARGS=--help)
	$(BIN)/evloop bench peers $(ARGS)

bench-loop: build $(VENV)/.bench  ## call_soon, timers, tasks: evloop.aio, uvloop and asyncio (ARGS=--help)
	$(BIN)/python -m evloop.bench.micro $(ARGS)

.PHONY: bench-agreement
bench-agreement: build  ## two load generators that share no line against one server: do they agree (ARGS=rounds)
	$(BIN)/python bench/load_agreement.py $(ARGS)
.PHONY: bench-chat
bench-chat: build     ## a chat server at 20,000 messages a second, with and without a database (ARGS=--help)
	$(BIN)/python bench/chat_load.py $(ARGS)

bench-output:         ## what ADR 0007 decides by: writev or a copy, a reference or a copy, the table of calls
	@mkdir -p build
	@$${CC:-cc} -O2 -o build/output_cost bench/output_cost.c && build/output_cost

.PHONY: bench-ways
bench-ways:           ## what ADR 0015 decides by: the load's system calls done otherwise (ARGS=rounds)
	@mkdir -p build
	@$${CC:-cc} -O2 -o build/epoll_echo evloop/bench/rivals/epoll_echo.c
	@$${CC:-cc} -O2 -o build/load_ways bench/load_ways.c && build/load_ways build/epoll_echo $(ARGS)

annotate: build       ## Cython's annotated HTML of the extensions, to look at the hot functions
	EVLOOP_ANNOTATE=1 $(BIN)/python setup.py --quiet build_ext --inplace --force
	@echo build/cython/evloop/_framing.html

clean:                ## remove everything that was built
	rm -rf $(VENV) .venv-3.* build *.egg-info evloop/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- how the environment is made -------------------------------------------------------------------------------

check-machine:
	@command -v $(PYTHON) >/dev/null || { echo "evloop needs Python 3.10 or newer: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "evloop needs Python 3.10 or newer, and $(PYTHON) is older: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "evloop makes a virtual environment, and this Python lacks the module: apt-get install python3-venv" >&2; exit 1; }
	@test "$$EVLOOP_PURE_BUILD" = 1 || command -v $${CC:-cc} >/dev/null || command -v gcc >/dev/null || \
	  { echo "evloop compiles its framing, and there is no C compiler: apt-get install gcc" >&2; exit 1; }
	@test "$$EVLOOP_PURE_BUILD" = 1 || $(PYTHON) -c 'import os, sysconfig as s; \
	  raise SystemExit(not os.path.exists(os.path.join(s.get_paths()["include"], "Python.h")))' || \
	  { echo "evloop compiles its framing, and the header Python.h is missing: apt-get install python3-dev" >&2; exit 1; }

$(BIN)/python:
	@$(MAKE) --no-print-directory check-machine
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade 'pip>=25.1'  # the first pip with --group

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing the build tools ..."
	@$(PIP) --group build
	@rm -f $(VENV)/.built && touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(wildcard $(foreach ext,pyx pxd h,evloop/*.$(ext) evloop/aio/*.$(ext) evloop/bench/*.$(ext)))
	@echo "compiling and installing evloop ..."
	@$(PIP) --no-build-isolation --editable '.[apps]' >$(VENV)/build.log 2>&1 || \
	  { grep -o 'evloop: the C compiler.*' $(VENV)/build.log | sed 's|above|in $(VENV)/build.log|' | grep . || \
	    cat $(VENV)/build.log; exit 1; } >&2
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@$(PIP) --group test && touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	@$(PIP) --group lint && touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	@$(PIP) --group bench && touch $@
