# perf_opt. Each target works from a clean clone and fetches what it lacks; tools/dev.py does the work.
#
#   PG_CONFIG=/path/to/pg_config   the PostgreSQL to build for (default: the machine's, else an embedded one)
#   PG=15                          a major version instead: make test PG=15
#   TEST=name                      only tests whose name contains this
#   PERF_OPT_E2E_JOBS=2            how many end-to-end modules run at once (default: CPUs + 1, at most 4)
#   PERF_OPT_CACHE=/path           where everything fetched is kept (default: ~/.cache/perf_opt, root: /var/cache/perf_opt)

PYTHON ?= python3
DEV := $(PYTHON) tools/dev.py

export PG_CONFIG PG TEST

.PHONY: help build install test test-unit test-regress test-e2e regress-accept demo demo-stop bench soak lint clean

help: ## Show this list
	@sed -n 's/^#   /  /p' $(MAKEFILE_LIST)
	@echo
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-24s %s\n", $$1, $$2 }'

build: ## Build a release package in target/package
	@$(DEV) build

install: ## Build and install into the PostgreSQL of PG_CONFIG
	@$(DEV) install

test: ## All tests, on PostgreSQL 15 and 18
	@$(DEV) test

test-unit: ## Unit and property tests only
	@$(DEV) test unit

test-regress: ## pg_regress only
	@$(DEV) test regress

test-e2e: ## End-to-end tests only
	@$(DEV) test e2e

regress-accept: ## Take what regress file TEST=name prints as expected
	@$(DEV) regress-accept

demo: ## Start a private server with a sample workload and show the answers
	@$(DEV) demo

demo-stop: ## Stop the demo's server
	@$(DEV) demo-stop

bench: ## Measure overhead and advisor quality
	@$(DEV) bench

soak: ## Long tests under load
	@$(DEV) soak

lint: ## rustfmt and clippy
	@$(DEV) lint

clean: ## Remove what was built (what was fetched stays in the cache)
	@$(DEV) clean
