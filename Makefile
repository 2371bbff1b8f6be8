# Everything a contributor types. `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-newest test-versions check format soak torture oracle oracle-rules rules bench profile clean servers
.DELETE_ON_ERROR:

VENV        := .venv
VENV20      := .venv-sqlalchemy20
NEWEST      := .venv-newest
RUN         := $(VENV)/bin/python
RUN20       := $(VENV20)/bin/python
PIP_OPTIONS := --quiet --disable-pip-version-check

# Two workers: each has its own databases (tests/conftest.py). A file's tests stay together; long ones do not come last.
# `make test PYTEST_OPTIONS="-k journal"` narrows both runs.
PYTEST         := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
PYTEST_OPTIONS ?=

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed $(VENV20)/.installed servers ## make both environments and what the tests need

demo: $(VENV)/.installed ## run the example application through two workers and show what the cache does
	@$(RUN) examples/seed/demo.py

serve: $(VENV)/.installed ## leave the example application running for a browser
	@$(RUN) examples/seed/serve.py

# What depends on the version of sqlite3, which comes with Python: its attribute autocommit is of 3.12.
NEWEST_TESTS := $(addprefix tests/integration/test_coherence_,sqlite.py sqlite_attribute.py commits_sqlite.py)

# Stores know no SQLAlchemy (`make check` sees to that), nor do the models of the protocol, and the torture is of the protocol:
# one version of it is enough. So it is for the benchmark, for two versions of an application, for a soak, for the demo, for what
# a store does under a Session, and for what MariaDB does, where PostgreSQL and SQLite are tried on both.
# `make test ONCE=` leaves nothing out.
ONCE := $(addprefix --ignore=tests/,contract protocol_models rules torture oracle/test_oracle_sensitivity.py \
    integration/test_bench.py integration/test_coherence_lmdb.py integration/test_coherence_mixed.py \
    integration/test_coherence_redis.py integration/test_demo.py integration/test_soak.py) -k "not mariadb"

test: check $(VENV20)/.installed servers ## checks, the whole suite on SQLAlchemy 2.1, most of it on 2.0 (ONCE=), SQLite on the newest Python
	@$(call announce,$(RUN))
	$(RUN) $(PYTEST) $(PYTEST_OPTIONS)
	@$(call announce,$(RUN20))
	$(RUN20) $(PYTEST) $(ONCE) $(PYTEST_OPTIONS)
	@$(MAKE) --no-print-directory test-newest

# Status 5 of pytest: the options left no test of these files.
test-newest: $(VENV)/.installed
	@if [ "$$(tools/find_python.sh --newest-version)" = "$$($(call version_of,$(RUN)))" ]; then \
		echo; echo "== The newest Python found here is that of $(VENV): nothing more to test on another"; \
	else \
		$(MAKE) --no-print-directory $(NEWEST)/.installed; \
		$(call announce,$(NEWEST)/bin/python); \
		$(NEWEST)/bin/python -m pytest $(NEWEST_TESTS) $(PYTEST_OPTIONS) || [ $$? = 5 ]; \
	fi

# Private names of SQLAlchemy stand for something else in some releases. Tried: the oldest that is supported, the first of 2.1.
VERSIONS      := 2.0.41 2.1.0
VERSION_TESTS := tests/unit $(addprefix tests/integration/test_,equality.py direct_loading.py tree_loading.py lazy_loading.py \
    keys.py keys_equality.py)

test-versions: $(VERSIONS:%=.venv-sqlalchemy-%/.installed) servers ## hits and queries compared on older releases of SQLAlchemy: VERSIONS="2.0.41 2.1.0"
	@set -e; for version in $(VERSIONS); do \
		$(call announce,.venv-sqlalchemy-$$version/bin/python); \
		.venv-sqlalchemy-$$version/bin/python $(PYTEST) $(VERSION_TESTS) $(PYTEST_OPTIONS); \
	done

check: $(VENV)/.installed ## ruff, mypy --strict, import-linter
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.installed ## let ruff put the code in order
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

soak: $(VENV)/.installed servers ## kill gunicorn workers for a minute and check every answer (SECONDS=60)
	@$(RUN) tests/soak/soak.py --seconds $(or $(SECONDS),60)

torture: $(VENV)/.installed servers ## kill, stop, cut off, flush, fail over, and check every answer: STORE=lmdb|redis|redis-near-push|valkey-cluster|… DB=… MINUTES=10 SEED=N ASYNC=some|all
	@$(RUN) tests/torture/torture_run.py --store $(or $(STORE),lmdb) --db $(or $(DB),postgresql) --minutes $(or $(MINUTES),10) \
		$(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON)) $(if $(ASYNC),--async $(ASYNC))

oracle: $(VENV)/.installed servers ## compare cached with uncached at random: MINUTES=5 DB=sqlite|postgresql|mariadb SEED=N ASYNC=1
	@$(RUN) tests/oracle/run.py --minutes $(or $(MINUTES),5) --db $(or $(DB),sqlite) $(if $(SEED),--seed $(SEED)) \
		$(if $(ASYNC),--async)

oracle-rules: $(VENV)/.installed servers ## see the oracle find rules that are taken out, from random seeds: NAME=outer
	@$(RUN) tests/oracle/run_rules.py $(if $(NAME),--name "$(NAME)") $(if $(TUNE),--tune)

rules: $(VENV)/.installed servers ## take each rule out of a copy of the library and see its tests fail: AREA=protocol
	@$(RUN) tests/rules/take_out.py $(if $(AREA),--area $(AREA))

bench: $(VENV)/.installed-bench servers ## measure hits, misses, writes, peers, sizes, an application: GROUP=hit,app QUICK=1
	@$(RUN) bench/run.py $(if $(GROUP),--group $(GROUP)) $(if $(QUICK),--quick) $(if $(STORES),--stores $(STORES)) \
		$(if $(DATABASES),--databases $(DATABASES)) $(if $(CASES),--cases $(CASES)) $(BENCH_OPTIONS)

profile: $(VENV)/.installed-bench ## show where a hit's time goes: STORE=lmdb CASES=get,select-1
	@$(RUN) bench/profile_hit.py $(if $(STORE),--store $(STORE)) $(if $(CASES),--cases $(CASES))

clean: ## remove the environments and what the tools left
	rm -rf $(VENV) $(VENV20) $(NEWEST) .venv-sqlalchemy-* bench/.environments .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist

servers:
	@tools/install_servers.sh

# A stamp file per environment: made again only when pyproject.toml changes, or after a half-finished installation.
$(VENV)/.installed: pyproject.toml tools/find_python.sh
	@$(call make_environment,$(VENV),SQLAlchemy>=2.1,--group dev --group demo)

$(VENV20)/.installed: pyproject.toml tools/find_python.sh
	@$(call make_environment,$(VENV20),SQLAlchemy<2.1,--group tests)

$(NEWEST)/.installed: pyproject.toml tools/find_python.sh
	@$(call make_environment,$(NEWEST),SQLAlchemy>=2.1,--group tests,--newest)

# Not in the environment of the tests: the benchmark's pictures and peers are large.
$(VENV)/.installed-bench: $(VENV)/.installed
	$(RUN) -m pip install $(PIP_OPTIONS) --group bench
	@touch $@

.venv-sqlalchemy-%/.installed: pyproject.toml tools/find_python.sh
	@$(call make_environment,.venv-sqlalchemy-$*,SQLAlchemy==$*,--group tests)

# $(1) folder, $(2) SQLAlchemy's version, $(3) dependency groups, $(4) options for find_python.sh
define make_environment
	set -e; python=$$(PYTHON="$(PYTHON)" tools/find_python.sh $(4)); \
	echo "$(1): installing, with $(2) (a minute or two)"; \
	"$$python" -m venv --clear $(1); \
	$(1)/bin/python -m pip install $(PIP_OPTIONS) --upgrade "pip>=25.1"; \
	$(1)/bin/python -m pip install $(PIP_OPTIONS) "$(2)" $(3) --editable ".[all]"; \
	touch $@
endef

define version_of
$(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])'
endef

define announce
	$(1) -c 'import platform, sqlalchemy; print(f"\n== SQLAlchemy {sqlalchemy.__version__}, Python {platform.python_version()}", flush=True)'
endef
