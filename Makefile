# Every target works from a fresh clone: it first installs the Debian packages that are
# missing (debian-packages.txt) and makes .venv with the project and its tools.
#
#   make test ARGS='-k mprotect -x'    ARGS goes to the program that the target runs
#   make test PYTHON=python3.13        the Python that .venv is made with (3.11 or later)
#   make test APT=no                   touch no Debian package

PYTHON ?= python3
APT ?= yes
JOBS ?= auto
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Where there is Python: mypy takes a folder without any for a mistake.
CODE := $(wildcard *.py docs/*.py) $(foreach folder,src tests bench examples tools,\
    $(if $(shell find $(folder) -name '*.py' -print -quit 2>/dev/null),$(folder)))
# An editable install compiles what hatch_build.py compiles: its inputs make it stale.
NATIVE := $(wildcard hatch_build.py) $(shell find src -name '*.[chS]' -o -name '*.lds')

# Tests start softsgx thousands of times: what one start compiled, the next ones read.
unexport PYTHONDONTWRITEBYTECODE

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

SITE ?= build/docs

.PHONY: help setup demo docs test lint bench fuzz judge confirm format guests findings man wheel clean

help:
	@echo 'make demo     run a small enclave under softsgx and show what happened'
	@echo 'make docs     the documentation as a site, in build/docs (SITE names another place)'
	@echo 'make test     the test suite (ARGS go to pytest)'
	@echo 'make lint     ruff, mypy --strict, import-linter, codespell'
	@echo 'make bench    the benchmarks (ARGS go to bench/run.py)'
	@echo 'make fuzz     random memory calls, held against the model (ARGS: seconds, --seed N …)'
	@echo 'make judge    the rules, held against the kernel'\''s own driver (ARGS: sequences, --seed N …)'
	@echo 'make confirm  each proof and trace of the checker, by solvers of others (ARGS: --shortest SECONDS)'
	@echo 'make guests   the test programs, into .cache/guests (orders is what replay needs)'
	@echo 'make findings write docs/findings.md, docs/findings/, docs/history.md, docs/why.md (20 minutes; ARGS go to tools/findings.py)'
	@echo 'make format   let ruff rewrite what it can'
	@echo 'make man      the manual page and the completions of shells, into build/prefix'
	@echo 'make wheel    build dist/*.whl'
	@echo 'make clean    remove .venv, caches and build output'

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml tools/venv $(NATIVE) | .cache/debian-packages
	@echo 'setup: installing softsgx and its tools into $(VENV)'
	@tools/venv '$(PYTHON)' $(VENV)
	@touch $@

.cache/debian-packages: debian-packages.txt tools/debian-packages
ifneq ($(APT),no)
	@tools/debian-packages debian-packages.txt
endif
	@mkdir -p $(@D)
	@touch $@

demo: setup
	@rm -rf build/demo && mkdir -p build/demo
	@cd build/demo && $(abspath $(BIN))/python ../../tools/console.py ../../docs/tutorials/first-look.md
	@$(BIN)/python tools/picture.py build/demo/report.html build/demo/report.webp
	@echo; echo 'demo: open build/demo/report.html'

# Strict: a link that leads nowhere is an error. Needs no network.
docs: setup
	@$(BIN)/sphinx-build -W --keep-going -q docs $(SITE)
	@echo 'docs: open $(SITE)/index.html'

test: setup
	@$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports
	@git -c 'safe.directory=*' ls-files -z --cached --others --exclude-standard | xargs -0 $(BIN)/codespell

bench: setup
	@$(BIN)/python bench/run.py $(ARGS)

fuzz: setup
	@$(BIN)/python tools/fuzz.py $(ARGS)

judge: setup
	@$(BIN)/python tools/judge.py $(ARGS)

# The checker's status is 1 where something is refuted.
confirm: setup
	@$(BIN)/softsgx check --export build/export >/dev/null || [ $$? = 1 ]
	@$(BIN)/python tools/confirm.py build/export $(ARGS)

format: setup
	@$(BIN)/ruff check --fix-only $(CODE)
	@$(BIN)/ruff format $(CODE)

guests: setup
	@mkdir -p .cache/guests
	@$(MAKE) -s -C tests/guests OUT='$(abspath .cache/guests)'

findings: setup
	@$(BIN)/python tools/findings.py $(ARGS)
	@$(BIN)/python tools/interleavings.py

man: setup
	@$(BIN)/python -m softsgx.cli.manual build/prefix \
	    "$$($(BIN)/softsgx --version | cut -d' ' -f2)"

wheel: setup
	@$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	    .import_linter_cache src/softsgx/host/*.so src/softsgx/sgx/*.so \
	    src/softsgx/dcap_ql/*.so.1
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
