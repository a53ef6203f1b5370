# `make demo` and `make test` are all that a newcomer needs; each target makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Real servers, processes and leases of seconds on a busy machine: what fails there is run once more, by itself.
AGAIN = $(BIN)/python -m pytest --last-failed --last-failed-no-failures none
TEST = $(BIN)/python -m pytest -m "not e2e" --numprocesses 4 --dist loadfile || { [ $$? -eq 1 ] && $(AGAIN) -m "not e2e"; }

.DEFAULT_GOAL := help
.PHONY: help setup demo test lowest newest tests-in-range e2e lint types docs hashes sbom audit bench clean

# Without bytecode every start of Prefect takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Install everything into .venv (again only when pyproject.toml or constraints.txt change)

# uv installs in a third of pip's time. It does not read pip's configuration: where that is what makes
# installing possible (a mirror, say), pip does it instead, with the same pins.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python could not make a virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --link-mode copy \
		--constraint constraints.txt --build-constraint constraints.txt --editable '.[dev]' || \
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || \
	{ rm -rf $(VENV); exit 1; } # with another Python it would keep the old one's links
	@touch $@

demo: setup ## Restyle the photographs in examples/ into ./demo, with an emulator and a Prefect server of its own
	$(BIN)/restyle demo

test: setup ## Run the tests, but those of `make e2e`
	$(TEST)

# What the tests need beside is not held down: uv keeps what is installed where it fits.
lowest newest: RANGE = $(BIN)/uv pip install --quiet --python .venv-$@/bin/python --compile-bytecode --link-mode copy
lowest: RESOLUTION := lowest-direct
newest: RESOLUTION := highest
lowest: setup ## Run the tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	$(IN_RANGE)
newest: setup ## Run them with today's newest, in .venv-newest
	$(IN_RANGE)

define IN_RANGE
	rm -rf .venv-$@
	$(BIN)/python -m venv .venv-$@
	$(RANGE) --resolution $(RESOLUTION) --requirements pyproject.toml --extra aws --extra parquet
	$(RANGE) --editable '.[dev]'
	$(MAKE) --no-print-directory BIN=.venv-$@/bin tests-in-range
endef

tests-in-range:
	$(TEST)

e2e: setup ## Run the tests that need programs of Debian's packages (Ceph, PostgreSQL …); root installs what is missing
	@tests/packages.sh
	$(BIN)/python -m pytest -m e2e --numprocesses 4 --dist loadfile --no-loadscope-reorder || { [ $$? -eq 1 ] && $(AGAIN) -m e2e; }

lint: setup ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Check types
	$(BIN)/mypy -p prefect_wavespeed -p tests -p benchmarks # and so the folders that the package links to
	$(BIN)/mypy docs/*.py

docs: setup ## Build the documentation into ./site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

hashes: setup ## Write requirements.txt anew: what the image installs, with the SHA-256 of each file
	rm -f requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command 'make hashes' --no-emit-package pywin32 --constraint constraints.txt \
		--extra aws --extra parquet --output-file requirements.txt pyproject.toml

sbom: setup ## Write sbom.json: what the image installs, as CycloneDX
	PYTHONWARNINGS=ignore $(BIN)/uv tool run --quiet --from 'cyclonedx-bom>=7.5,<8' cyclonedx-py requirements --pyproject pyproject.toml \
		--output-reproducible --output-file sbom.json requirements.txt

audit: setup ## Look what the image installs up in the advisories of the Python Packaging Authority, which must be reachable
	$(BIN)/uv tool run --quiet --from 'pip-audit>=2.10,<3' pip-audit --strict --disable-pip --require-hashes \
		--requirement requirements.txt

bench: setup ## Measure
	$(BIN)/python -m benchmarks

clean: ## Remove .venv, ./demo and caches
	rm -rf $(VENV) .venv-lowest .venv-newest demo build site sbom.json .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
