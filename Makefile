# Overcut's front door. Everything is installed inside this checkout: .tools, .venv and node_modules.
PYTHON ?= python3
UV_VERSION := 0.13.9
# its line for pip, with the hashes that uv.lock has of it
UV_LOCKED := import tomllib; found = [p for p in tomllib.load(open("uv.lock", "rb"))["package"] if p["name"] == "uv"]; \
	print("uv==$(UV_VERSION)", *("--hash=" + wheel["hash"] for wheel in found[0]["wheels"]))
UV := .tools/uv-$(UV_VERSION)/bin/uv
export UV_CACHE_DIR := $(CURDIR)/.tools/uv-cache
export UV_PYTHON_DOWNLOADS := never
export npm_config_cache := $(CURDIR)/.tools/npm-cache
export npm_config_update_notifier := false
export NODE_COMPILE_CACHE := $(CURDIR)/.tools/node-compile-cache
# uv leaves its locks here
TMP := .tools/tmp
# the CDK command line of today wants Node.js 22 or newer; without it, one comes from PyPI into .venv
NODE_FITS := $(shell node -e 'process.exit(parseInt(process.versions.node) >= 22 ? 0 : 1)' 2>/dev/null && NODE_DISABLE_COMPILE_CACHE=1 npm --version >/dev/null 2>&1 && echo yes)
NODE_GROUP := $(if $(NODE_FITS),,--group node)
# and Spark wants Java 17 or 21
JAVA_FITS := $(shell java -XshowSettings:properties -version 2>&1 | grep -qE 'java.specification.version = (17|21)$$' && echo yes)
JAVA_GROUP := $(if $(JAVA_FITS),,--group java)
# a file's tests share what they set up, so they stay together; those of the embedded cloud come first, since they take
# longest, and wait much: one more than there are cores keeps these busy
WORKERS := $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
PYTEST := .venv/bin/pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test stream faults soak docs check benchmark sbom keep-release format clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready node_modules/.ready ## install everything into this checkout

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Overcut needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv .tools/uv-$(UV_VERSION) || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c '$(UV_LOCKED)' > .tools/uv-$(UV_VERSION)/locked.txt
	@.tools/uv-$(UV_VERSION)/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement .tools/uv-$(UV_VERSION)/locked.txt

.venv/.ready: pyproject.toml uv.lock | $(UV)
	@mkdir -p $(TMP)
	TMPDIR="$(CURDIR)/$(TMP)" $(UV) sync --quiet --locked --python $(PYTHON) $(NODE_GROUP) $(JAVA_GROUP)
	@touch $@

node_modules/.ready: package.json package-lock.json .venv/.ready
	PATH="$(CURDIR)/.venv/bin:$$PATH" npm ci --silent --no-audit --no-fund
	@touch $@

demo: setup ## deploy both pipelines to the embedded cloud, see a text and a ticket
	.venv/bin/overcut demo

test: setup ## run every test
	$(PYTEST)

stream: setup ## run the stream from hell, and print its figures
	$(PYTEST) tests/functional/test_stream_from_hell.py

faults: setup ## break every call of every function in every way, and count
	$(PYTEST) tests/faults

soak: setup ## four rough days in a quarter of an hour, then the audit
	.venv/bin/pytest tests/soak -m soak -s

check: setup ## format, lint, types, import contracts and every test: what CI runs
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	$(PYTEST)

BENCH := set_up ingestion memory scoring event_to_text storm sensors_training export etl_jobs_lake prediction money \
	twenty_years etl_jobs_quality detection

.venv/.bench: .venv/.ready
	TMPDIR="$(CURDIR)/$(TMP)" $(UV) sync --quiet --locked --inexact --python $(PYTHON) $(NODE_GROUP) $(JAVA_GROUP) --group bench
	@touch $@

benchmark: setup .venv/.bench ## measure it beside simpler ways; BENCH=ingestion one question alone
	set -e; for name in $(BENCH); do .venv/bin/python -m benchmarks.$$name; done
	.venv/bin/python -m benchmarks.tables

docs: setup ## make the site of docs/ in dist/docs
	.venv/bin/sphinx-build -q -W --keep-going docs dist/docs

sbom: ## write dist/sbom.cdx.json, the bill of materials of the lock files
	$(PYTHON) -m workbench.sbom dist/sbom.cdx.json

keep-release: setup ## keep this version's templates, bundles and data, for the tests of upgrades
	.venv/bin/python -m tests.upgrades.keep

format: setup ## rewrite the code in the project's format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean: ## remove everything that was installed or made here
	@! test -x .venv/bin/overcut || .venv/bin/overcut cloud down 2>/dev/null || true
	rm -rf .tools .venv node_modules .overcut cdk.out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis \
		.import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
