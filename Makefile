# make demo    an agent survives the death of its kernel; ENV=DIR: it audits another environment
# make test    everything that CI runs
# make check   style, types, layers
# make crash   kills by the thousand: make crash N=5000 SEED=1
# make crash-notebooks   kernels and runners of the notebooks killed: make crash-notebooks N=50 SEED=1 JOBS=2
# make lab     JupyterLab's side panel: checks and builds extensions/jupyterlab, needs Node
# make browser stories of people at a notebook, in a real JupyterLab and Chromium; pictures in bench-out/screens
# make damage  files spoilt by the thousand: make damage N=5000 SEED=1
# make conformance   the saver's report from LangGraph's own suite: 81 of 81
# make newest  the shapes and their kills with the newest LangGraph there is; ends with what broke: make newest N=500
# make bench   the measured claims, beside LangGraph's own savers: writes docs/benchmarks.md and docs/profile.md

VENV   ?= .venv
PYTHON ?= python3
N      ?= 5000
SEED   ?= 0
BIN     = $(VENV)/bin

.PHONY: demo test check lab browser crash crash-notebooks damage conformance newest bench clean

demo: $(VENV)/.ready-demo
	$(BIN)/notebook-agents demo $(if $(ENV),--env $(ENV))

test: check
	$(BIN)/python -m pytest

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Built into the wheel from then on; here JupyterLab is led to what is built.
LAB     = extensions/jupyterlab
SHARE   = $(VENV)/share/jupyter/labextensions/@notebook-agents
JLPM    = cd $(LAB) && PATH="$(abspath $(BIN)):$$PATH" jlpm

lab: $(VENV)/.ready-dev
	@command -v node >/dev/null || { echo "make lab needs Node 20 or newer (https://nodejs.org)"; exit 1; }
	$(BIN)/python -m pip install --quiet --group lab
	$(JLPM) install --immutable
	$(JLPM) check
	$(JLPM) build:prod
	mkdir -p $(SHARE)
	rm -rf $(SHARE)/jupyterlab
	ln -s $(abspath $(LAB))/labextension $(SHARE)/jupyterlab

browser: $(VENV)/.ready-dev
	NEED_BROWSER=1 $(BIN)/python -m pytest tests/browser

crash: $(VENV)/.ready-dev
	$(BIN)/python -m tests.crash $(N) --seed $(SEED)

crash-notebooks: N = 50
crash-notebooks: JOBS = 2
crash-notebooks: $(VENV)/.ready-dev
	$(BIN)/python -m tests.crash_notebooks $(N) --seed $(SEED) --jobs $(JOBS)

damage: $(VENV)/.ready-dev
	$(BIN)/python -m tests.damage $(N) --seed $(SEED) --bursts

conformance: $(VENV)/.ready-dev
	$(BIN)/python -m tests.conformance

newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-newest/bin/python -m pip install --quiet --editable ".[notebook]" --group dev
	.venv-newest/bin/python -m pip install --quiet --upgrade --pre langgraph langgraph-checkpoint langchain langchain-core
	.venv-newest/bin/python -m tests.newest $(N) --seed $(SEED)

bench: $(VENV)/.ready-dev
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .venv-newest build dist demo-out demo.json bench-out

$(VENV)/.ready-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[notebook]"
	touch $@

# Dependency groups need a newer pip than Debian's.
$(VENV)/.ready-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[notebook]" --group dev
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
